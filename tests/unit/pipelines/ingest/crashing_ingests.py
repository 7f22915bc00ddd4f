"""Two ingests with a kill -9 in them: `python -m tests.unit.pipelines.ingest.crashing_ingests FOLDER` lives them often.

The n-th life, in FOLDER/n, is killed before its n-th write: a Parquet file, a rename, an fsync, a removal. `done` there
grows by a byte with every ingest that returned. The last life ends by itself.
"""

import os
import pathlib
import sys
from typing import Any

import polars as pl

from forecaster.config import Config, DataConfig, IngestConfig
from pipelines.ingest.step import ingest
from tests.unit.lives import live_until_one_ends
from tests.unit.serving.crashing import Killer

FIRST, SECOND = "first.parquet", "second.parquet"


class Watcher(Killer):
    """Kills the process before its n-th write of a file's content, too."""

    def watch(self) -> None:
        """Count what is written."""
        super().watch()
        for holder, name in ((pl.DataFrame, "write_parquet"), (os, "rmdir")):
            setattr(holder, name, self._counted(getattr(holder, name)))


def config(sources: pathlib.Path, output: pathlib.Path, *names: str) -> Config:
    """Return the configuration of an ingest."""
    data = DataConfig(past_covariates=("rain",), static_covariates=("area",))
    paths = tuple(str(sources / name) for name in names)
    return Config(data=data, ingest=IngestConfig(sources=paths, output=str(output)))


def live(folder: pathlib.Path, killed_at: int) -> None:
    """Ingest twice, unless killed before."""
    folder.mkdir()
    done = os.open(folder / "done", os.O_CREAT | os.O_WRONLY)
    settings: list[Any] = [config(folder.parent, folder / "dataset", *names) for names in ((FIRST,), (FIRST, SECOND))]
    Watcher(killed_at).watch()
    for one in settings:
        ingest(one)
        os.write(done, b".")


if __name__ == "__main__":
    live_until_one_ends(pathlib.Path(sys.argv[1]), live)
