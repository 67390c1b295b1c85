"""The training loop and what it stands on.

`augft.train` is this package, whatever was imported before, and a function as well: `augft.train(job)` is
`augft.train.launch.train(job)`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from augft.train.launch import train

        return train(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
