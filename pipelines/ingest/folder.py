"""A data set's folder while an ingest works in it: one at a time, and nothing is left of one that was killed.

Knows the names of files; knows nothing of what is in them.
"""

import contextlib
import fcntl
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from forecaster.data.manifest import MANIFEST, Manifest, manifest_at
from forecaster.durable_files import UNFINISHED, make_folder

SCRATCH = "scratch"
_LOCK = "ingest.lock"
# What is not called so is not ours to remove.
_OURS = re.compile(
    rf"((\d{{4}}(-\d\d){{0,2}}|series)-[0-9a-f]{{16}}\.parquet({re.escape(UNFINISHED)})?)|{MANIFEST}{UNFINISHED}"
)


@contextlib.contextmanager
def owned(folder: Path, stream: TextIO | None) -> Iterator[None]:
    """Own a folder, made if need be, for the block; wait for another process that does, and tell the stream so."""
    make_folder(folder)
    with (folder / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if stream is not None:
                stream.write(f"another ingest writes {folder}: waiting for it\n")
                stream.flush()
            fcntl.flock(lock, fcntl.LOCK_EX)  # the system gives it up with the process that has it
        yield


def tidy(folder: Path) -> None:
    """Remove what ingests left that the manifest does not list."""
    path = manifest_at(folder)
    listed = set() if path is None else Manifest.read(path).file_names()
    for path in folder.iterdir():
        if path.name == SCRATCH and path.is_dir():
            shutil.rmtree(path)
        elif path.name not in listed and _OURS.fullmatch(path.name):
            path.unlink()


def partition_file(partition: str, digest: str) -> str:
    """Return the name of the file of a stretch of time; it is another one if the content is."""
    return f"{partition}-{digest[:16]}.parquet"


def series_file(digest: str) -> str:
    """Return the name of the file of what is known of each series."""
    return f"series-{digest[:16]}.parquet"
