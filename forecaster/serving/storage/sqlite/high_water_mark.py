"""The high watermark: the last acknowledged sequence, in a file of its own; what a damaged journal is told by.

A log that was cut short or has one flipped byte ends there, and looks like one that never was longer; this file says
that it was. It is mapped into memory, so that raising it is a store into a page and no call of the system: a process
kill loses nothing of it. A power cut takes it back to where it last was on the disk (`sync`, or the system's own
writing back), never ahead of the journal, which is synced before it is raised.

Knows nothing of journals.
"""

import contextlib
import logging
import mmap
import os
import pathlib
import struct
import threading
import zlib

from forecaster.durable_files import sync_folder, write_durably
from forecaster.errors import StorageError

_LOG = logging.getLogger(__name__)
_RECORD = struct.Struct("<qI")  # the sequence, and the CRC-32 of its bytes
_PLACES = (0, 64)  # written in turn, so that one is whole at every moment
_SIZE = 128


class HighWaterMark:
    """One journal's mark, for any thread.

    Args:
        path: of its file, made if there is none or it is damaged.

    Raises StorageError if it cannot be made or read.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        found = read_mark(path)
        if found is None and path.exists():
            _LOG.warning("%s is damaged and begins anew: it cannot tell whether the journal lost its end", path)
        self.value = found or 0
        try:
            if found is None:
                write_durably(path, lambda file: file.write(_encoded(0) + bytes(_SIZE - len(_encoded(0)))))
                sync_folder(path.parent)
            self._file = path.open("r+b", buffering=0)
            with contextlib.ExitStack() as undo:
                undo.callback(self._file.close)
                self._mapped = mmap.mmap(self._file.fileno(), _SIZE)
                undo.pop_all()
        except (OSError, ValueError) as error:
            raise StorageError(f"{path}: cannot be opened: {error}; check disk space and permissions") from error
        self._turn, self._mutex = 0, threading.Lock()

    def reach(self, sequence: int) -> None:
        """Note that records up to a sequence are as durable as promised; a lower one changes nothing."""
        with self._mutex:
            if sequence > self.value:
                self.value, self._turn = sequence, 1 - self._turn
                at = _PLACES[self._turn]
                self._mapped[at : at + _RECORD.size] = _encoded(sequence)

    def sync(self) -> None:
        """Make the mark survive a power cut."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise StorageError(f"{self._path}: cannot be synced: {error.strerror}; check the disk") from error

    def close(self) -> None:
        """Let go of the file."""
        self._mapped.close()
        self._file.close()


def read_mark(path: pathlib.Path) -> int | None:
    """Return what a mark's file says, None if there is none or nothing in it is whole; raises StorageError."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}; check permissions") from error
    parts = [data[at : at + _RECORD.size] for at in _PLACES]
    whole = [_RECORD.unpack(part)[0] for part in parts if len(part) == _RECORD.size and part == _checked(part)]
    return max(whole, default=None) if len(data) == _SIZE else None


def _encoded(sequence: int) -> bytes:
    return _checked(struct.pack("<q", sequence))


def _checked(part: bytes) -> bytes:
    """Return a record with the checksum that it should have."""
    return part[:8] + struct.pack("<I", zlib.crc32(part[:8]))
