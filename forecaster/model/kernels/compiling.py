"""How functions become machine code: by numba, where it is there and not told to let Python run everything.

Otherwise (`NUMBA_DISABLE_JIT=1`) they stay the plain Python that they are. Knows nothing of what they compute.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

numba: Any
try:
    import numba
except ImportError:  # then nothing is compiled
    numba = None

Function = Callable[..., Any]

COMPILES = numba is not None and not numba.config.DISABLE_JIT
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}


def part(function: Function) -> Any:
    """Compile what entries are made of; float64 and comparisons are IEEE's, to the bit."""
    return numba.njit(**_OPTIONS)(function) if COMPILES else function


def units(function: Function) -> Any:
    """Compile what goes over the units of a network: products and sums may be contracted, and zeros have no sign."""
    return numba.njit(**_OPTIONS, fastmath={"contract", "nsz"})(function) if COMPILES else function


def entry(function: Function) -> Any:
    """Compile at the first call, or load what an earlier process compiled where there is a folder for it."""
    if not COMPILES:
        return function
    try:
        found = numba.njit(**_OPTIONS, cache=True)(function)
    except RuntimeError:  # no folder can be written
        return numba.njit(**_OPTIONS)(function)
    # By itself numba takes what it kept for good while the file of the entry is what it was, whatever it calls.
    package = Path(__file__).parents[2]
    files = [path.stat() for path in sorted((*package.rglob("*kernel*.py"), *package.rglob("kernels/*.py")))]
    found._cache._cache_file._source_stamp = tuple((file.st_mtime, file.st_size) for file in files)
    return found
