"""Imports of large packages: faster while nobody looks for garbage among what they make, smaller without their extras.

What an import makes stays for good, and full collections would walk through all of it again and again: during the
import, and ever after. Knows nothing of what is imported.
"""

import contextlib
import gc
import sys
from collections.abc import Iterator

_MANY_MODULES = 50  # what else there is at that moment stays for good too: not for every small import


@contextlib.contextmanager
def without_collections() -> Iterator[None]:
    """While the block runs, let no collection of garbage begin by itself; later ones pass over what it imported."""
    was_enabled, modules = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
            if len(sys.modules) - modules >= _MANY_MODULES:
                gc.freeze()


@contextlib.contextmanager
def absent(*names: str) -> Iterator[None]:
    """While the block runs, let packages that were not imported yet be as if they were not installed.

    For packages that others import only if they are there. Other threads must not import anything meanwhile; what
    asks for one of them after the block gets it.
    """
    hidden = [name for name in names if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # how Python writes down that there is none
    try:
        yield
    finally:
        for name in hidden:
            if sys.modules.get(name, sys) is None:
                del sys.modules[name]
