"""Files that are either there, whole and on the disk, or not there at all.

Knows nothing of what is in them.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

UNFINISHED = ".partial"
"""What the name of a file ends with until it is whole."""


def write_durably(
    path: Path, write: Callable[[BinaryIO], object], before_move: Callable[[], object] = lambda: None
) -> None:
    """Write a file beside its place, sync it and move it there; its name is on the disk after `sync_folder`.

    Args:
        path: its place.
        write: writes it.
        before_move: called when it is on the disk, and not yet at its place.

    Raises what `write` and `before_move` raise, and OSError; then all that may be left is a file ending in
    `UNFINISHED`.
    """
    unfinished = path.with_name(path.name + UNFINISHED)
    with unfinished.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    before_move()
    os.replace(unfinished, path)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it that are missing, so that all of them survive a power cut.

    Raises OSError if one cannot be made, or there is a file of that name.
    """
    missing, above = [], folder
    while not above.exists():
        missing.append(above)
        above = above.parent
    folder.mkdir(parents=True, exist_ok=True)
    for made in reversed(missing):
        sync_folder(made.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
