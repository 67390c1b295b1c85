"""The command line, as typed; run in this process, where a new one would only cost time."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from augft import cli


@dataclass(frozen=True)
class Typed:
    """What came of a command."""

    code: int
    out: str
    err: str


@pytest.fixture
def augft(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Typed]:
    """`augft("config", "show")` is `augft config show`; starting Ray is an error."""

    def no_ray(*_: object, **__: object) -> None:
        pytest.fail("Ray was started")

    def typed(*arguments: object) -> Typed:
        monkeypatch.setattr(sys, "argv", ["augft", *map(str, arguments)])
        if "train" in arguments:
            import ray

            monkeypatch.setattr(ray, "init", no_ray)
        code: object = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
        out, err = capsys.readouterr()
        assert isinstance(code, int | None)
        return Typed(code or 0, out, err)

    return typed
