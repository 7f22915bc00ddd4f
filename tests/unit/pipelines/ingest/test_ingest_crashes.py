"""After a kill -9 before any write the data set is the one from before or the new one; ingested again, the new one."""

import pathlib
import subprocess
import sys

import pytest

from forecaster.config import Config
from forecaster.data.manifest import manifest_at
from forecaster.data.schema import read_frame
from pipelines.ingest.step import ingest
from pipelines.training.dataset import ingested
from tests.unit.pipelines.ingest.crashing_ingests import FIRST, SECOND, config
from tests.unit.pipelines.ingest.ingesting import Row, frame

BEFORE: list[Row] = [("a", hour, 1.0, float(hour), 2.0) for hour in range(0, 60)]
CHANGED: list[Row] = [("a", 1, 5.0, None, 2.0), ("b", 70, 1.0, 1.0, 3.0), ("b", 900, 1.0, 1.0, 3.0)]


@pytest.fixture(scope="module")
def lives(tmp_path_factory: pytest.TempPathFactory) -> list[pathlib.Path]:
    """Return the folder of each life."""
    folder = tmp_path_factory.mktemp("ingests")
    for name, rows in ((FIRST, BEFORE), (SECOND, CHANGED)):
        frame(rows, "rain", "area").write_parquet(folder / name)
    command = [sys.executable, "-m", "tests.unit.pipelines.ingest.crashing_ingests", str(folder)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return sorted(path for path in folder.iterdir() if path.is_dir())


def rows(settings: Config) -> list[Row] | None:
    """Return what a data set holds, None if there is none."""
    if manifest_at(settings.ingest.output) is None:
        return None
    return read_frame(ingested(settings).data).rows()


def test_every_moment_is_survived(lives: list[pathlib.Path], tmp_path: pathlib.Path) -> None:
    folder = lives[0].parent
    clean = config(folder, tmp_path / "dataset", FIRST)
    ingest(clean)
    states: list[list[Row] | None] = [None, rows(clean)]
    both = config(folder, tmp_path / "dataset", FIRST, SECOND)
    whole = ingest(both).manifest
    states.append(rows(both))
    assert len(states[2] or []) == len(BEFORE) + 2
    seen = set()
    for life in lives:
        settings = config(folder, life / "dataset", FIRST, SECOND)
        done = (life / "done").stat().st_size
        found = states.index(rows(settings))
        assert found in (done, done + 1)
        seen.add((done, found))
        manifest = ingest(settings).manifest
        assert (manifest.content_hash, manifest.files) == (whole.content_hash, whole.files)
        assert rows(settings) == states[2]
        names = {path.name for path in (life / "dataset").iterdir()}
        assert names == whole.file_names() | {"manifest.json", "ingest.lock"}
    assert len(lives) > 30  # there are that many writes
    assert seen == {(0, 0), (0, 1), (1, 1), (1, 2), (2, 2)}
