"""How the inner loops are compiled: once for a machine, with one signature each, then cached on disk.

A function and those it calls stand in one file: the cache looks at no other file's changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit, types

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(signature: Any) -> Callable[[Function], Function]:
    """Compile at import, or read from the cache: `__pycache__`, else the user's, else NUMBA_CACHE_DIR."""

    def decorate(function: Function) -> Function:
        try:
            return njit(signature, cache=True, nogil=True)(function)  # type: ignore[no-any-return]
        except RuntimeError:  # numba found no folder it may write: compile for this process alone
            return njit(signature, nogil=True)(function)  # type: ignore[no-any-return]

    return decorate


def part(function: Function) -> Function:
    """Part of a compiled function, which is compiled and cached with it."""
    return njit(nogil=True)(function)  # type: ignore[no-any-return]


def array(dtype: Any, ndim: int, readonly: bool = False) -> Any:
    """A C-contiguous array. Read-only takes both kinds; the object store hands out read-only ones."""
    return types.Array(dtype, ndim, "C", readonly=readonly)
