"""Two ingests with a kill -9 in them: `python -m tests.unit.pipelines.crashing_ingests FOLDER` lives them often.

The n-th life, in FOLDER/n, is killed before its n-th write: a Parquet file, a rename, an fsync, a removal. `done` there
grows by a byte with every ingest that returned. The last life ends by itself.
"""

import os
import pathlib
import signal
import sys
from typing import Any

import polars as pl

from forecaster.config import Config, DataConfig, IngestConfig
from pipelines.ingest import ingest
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


def main(folder: pathlib.Path) -> None:
    """Live until a life ends by itself."""
    code = killed_at = 0
    while code == 0:
        killed_at += 1
        child = os.fork()  # of a process that has read nothing: importing it all again would take a second each
        if child == 0:
            live(folder / f"{killed_at:04d}", killed_at)
            os._exit(1)  # it was not killed: enough
        status = os.waitpid(child, 0)[1]
        code = 0 if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL else os.WEXITSTATUS(status)
    sys.exit(0 if code == 1 else 2)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
