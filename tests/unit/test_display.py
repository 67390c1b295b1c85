"""What people see: plain lines, or a bar on a terminal."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from augft import display
from augft.display import Display

STEP = {
    "kind": "step", "step": 5, "num_steps": 40, "epoch": 0, "epochs": 2, "loss": 1.5, "images_per_s": 1234.5,
    "data_stall_fraction": 0.015,
}  # fmt: skip
LINE = {"kind": "line", "step": 20, "epoch": 0, "split": "val", "loss": 0.25, "top1": 0.5, "num_samples": 1437}


def plain() -> tuple[Display, StringIO]:
    out = StringIO()
    return Display(Console(file=out, force_terminal=False, width=40)), out


def terminal() -> tuple[Display, StringIO]:
    out = StringIO()
    return Display(Console(file=out, force_terminal=True, width=160)), out


def test_lines_come_as_they_are() -> None:
    shown, out = plain()
    long = "[bold]no markup[/bold] " + "x" * 100
    with shown:
        shown.say(long)
        shown.handle({"kind": "say", "text": "second :smile:"})
    assert out.getvalue() == f"{long}\nsecond :smile:\n"


def test_a_line_of_metrics() -> None:
    shown, out = plain()
    with shown:
        shown.handle(LINE)
        shown.handle({**LINE, "split": "train", "images_per_s": 1234.5})
    assert out.getvalue().splitlines() == [
        "step     20  epoch   1  val    loss 0.2500  top1 0.5000  of 1,437",
        "step     20  epoch   1  train  loss 0.2500  top1 0.5000  of 1,437  1,234 images/s",
    ]


def test_steps_are_quiet_where_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    shown, out = plain()
    with shown:
        shown.handle(STEP)
        assert out.getvalue() == ""
        now[0] += display.QUIET_INTERVAL_S + 1
        shown.handle(STEP)
        shown.handle(STEP)
        assert out.getvalue() == "epoch 1/2  5/40  loss 1.500  1,234 images/s  stall 1.5%\n"
        now[0] += display.QUIET_INTERVAL_S + 1
        shown.count("packing", 1000, None)
    assert out.getvalue().splitlines()[1].strip() == "packing  1,000"


def test_how_fast_it_counts_and_how_long_it_will(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what was counted here: what an earlier packing had done comes with the first call."""
    now = [1000.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    shown, out = plain()
    with shown:
        shown.count("packing", 400_000, 1_000_000)
        now[0] += 60
        shown.count("packing", 460_000, 1_000_000)
    assert out.getvalue() == "packing  460,000/1,000,000  1,000/s  9 min left\n"


def test_a_terminal_has_a_bar_and_lines_above_it() -> None:
    shown, out = terminal()
    with shown:
        shown.count("packing", 10, 100)
        shown.handle(STEP)
        shown.say("said")
        shown._bar.refresh()  # type: ignore[union-attr]
    text = out.getvalue()
    assert "epoch 1/2" in text
    assert "5/40" in text
    assert "loss 1.500" in text
    assert "said\n" in text
    assert "\x1b[?25h" in text  # the cursor is back
    assert shown._bar is None


def test_a_bar_of_unknown_length() -> None:
    shown, out = terminal()
    with shown:
        shown.count("packing", 0, None)
        shown.count("packing", 7, None)
        shown.count("packing", 8, 10)
        shown._bar.refresh()  # type: ignore[union-attr]
    assert "8/10" in out.getvalue()


def test_a_bar_ends_by_an_error_too() -> None:
    shown, out = terminal()

    def interrupted() -> None:
        with shown:
            shown.count("packing", 1, 2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert shown._bar is None
    assert "\x1b[?25h" in out.getvalue()
