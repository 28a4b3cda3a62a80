"""numba's compiler as the kernels of this package use it: without the interpreter's lock, and once an installation."""

from collections.abc import Callable
from typing import Any

from numba import njit


def _can_cache() -> bool:
    """Tell whether numba has a place for compiled code: beside the source, or in the user's cache folder."""
    try:
        njit(cache=True)(_can_cache)
    except RuntimeError:  # a read-only installation without a home: compile in each process
        return False
    return True


_OPTIONS: dict[str, Any] = {"nogil": True, "cache": _can_cache()}

compiled: Callable[..., Any] = njit(**_OPTIONS)

inlined: Callable[..., Any] = njit(inline="always", **_OPTIONS)
"""For innermost loops: numba counts the references to arrays passed on, which would cost more than the work."""

reordered: Callable[..., Any] = njit(fastmath={"reassoc", "nsz", "nnan"}, **_OPTIONS)
"""For minima that may be taken in any order, so that whole vectors are compared; no number may be NaN."""
