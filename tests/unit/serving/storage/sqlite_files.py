"""What tests of SQLite's files share: how a model's storage is opened, and where its files lie."""

import pathlib

from forecaster.serving.storage.contract import Storage
from forecaster.serving.storage.opening import open_storage
from forecaster.serving.storage.sqlite.folder import quoted

MODEL = "a model/of mine"


def opened(folder: pathlib.Path, durability: str = "commit") -> Storage:
    """Open the storage of `MODEL` in a folder."""
    return open_storage(str(folder), durability, MODEL)  # type: ignore[arg-type]


def files(folder: pathlib.Path) -> pathlib.Path:
    """Return the folder of the model's own files."""
    return folder / quoted(MODEL)
