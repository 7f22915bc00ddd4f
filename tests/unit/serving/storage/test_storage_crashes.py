"""After a kill -9 before any write: what was answered is there, nothing twice, what was deleted stays deleted."""

import collections
import pathlib
import subprocess
import sys

import pytest

from forecaster.serving.storage.contract import Storage
from forecaster.serving.storage.opening import inspect
from forecaster.serving.storage.records import Attributes, Columns, Deletion, Record
from tests.unit.serving.crashing import AGAIN, BUNDLE_FILES, GONE, PRINT, STAYS, STEPS, Step, appended, snapshot
from tests.unit.serving.storages import columns, erase_all, plain, prune_all, sqlite_opener

NAMES = (GONE, AGAIN, STAYS)


@pytest.fixture(scope="module")
def lives(tmp_path_factory: pytest.TempPathFactory) -> list[pathlib.Path]:
    """Return the folder of each life."""
    folder = tmp_path_factory.mktemp("lives")
    command = [sys.executable, "-m", "tests.unit.serving.crashing", str(folder)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return sorted(folder.iterdir())


def fold(records: list[tuple[int, Record]]) -> dict[str, list[object]]:
    """Return each series' rows, in order, as records leave them."""
    rows: dict[str, list[object]] = collections.defaultdict(list)
    for _, record in records:
        if isinstance(record, Deletion):
            rows.pop(record.series_id, None)
        elif isinstance(record, Columns):
            told = plain(record)
            assert isinstance(told, list)
            for row in told:
                rows[row[0]].append(row)
    return dict(rows)


def known(records: list[tuple[int, Record]]) -> dict[str, object]:
    attributes: dict[str, object] = {}
    for _, record in records:
        if isinstance(record, Deletion):
            attributes.pop(record.series_id, None)
        elif isinstance(record, Attributes):
            attributes |= dict(zip(record.series_ids, record.numbers, strict=True))
    return attributes


def check_state(storage: Storage, steps: list[Step]) -> None:
    """Check that a storage holds just what these steps did."""
    records = appended(steps)
    expected = fold(records)
    assert fold(list(storage.journal.read(0))) == expected
    attributes = storage.journal.attributes(NAMES)
    assert dict(zip(attributes.series_ids, attributes.numbers, strict=True)) == known(records)
    for name in NAMES:
        times = [row[1] for row in expected.get(name, [])]  # type: ignore[index]
        found = storage.journal.find(columns(*((name, time, 0.0) for time in range(13)))).found
        assert [time for time in range(13) if found[time]] == times


def check_snapshots(storage: Storage, records: list[tuple[int, Record]]) -> None:
    """Check that snapshots are whole, and of series that are there."""
    for one in storage.snapshots.fetch("f", NAMES):
        assert one == snapshot(one.series_id, one.sequence)
        deleted = [s for s, record in records if isinstance(record, Deletion) and record.series_id == one.series_id]
        assert max(deleted, default=0) <= one.sequence <= storage.journal.last_sequence()


def test_every_moment_is_survived(lives: list[pathlib.Path]) -> None:
    assert len(lives) > 150  # there are that many writes
    steps_seen = set()
    for life in lives:
        done = (life / "acknowledged").stat().st_size
        steps_seen.add(done)
        opener = sqlite_opener(life / "state")
        storage = opener()
        last = storage.journal.last_sequence()
        # What was under way may or may not have been done, but whole.
        taken = next(k for k in (done, done + 1) if len(appended(STEPS[:k])) == last or k == done + 1)
        steps = STEPS[:taken]
        assert len(appended(steps)) == last
        for _ in range(2):
            check_state(storage, steps)
            check_snapshots(storage, appended(steps))
            storage.close()
            storage = opener()
        if storage.snapshots.active() is not None:
            assert storage.snapshots.kept_bundle(PRINT) == BUNDLE_FILES
        assert inspect(str(life / "state"), "a model").wrong == []
        erase_all(storage)
        prune_all(storage, last)
        check_state(storage, steps)
        assert storage.journal.append(columns((STAYS, 99, 1.0))) == last + 1
        storage.close()
        gone = GONE in {record.series_id for _, record in appended(steps) if isinstance(record, Deletion)}
        held = [path for path in life.rglob("*") if path.is_file() and GONE.encode() in path.read_bytes()]
        assert bool(held) == (not gone and last > 0)
    assert steps_seen == set(range(len(STEPS) + 1))


def test_acknowledged_snapshots_stay(lives: list[pathlib.Path]) -> None:
    for life in lives:
        done = (life / "acknowledged").stat().st_size
        storage = sqlite_opener(life / "state")()
        if 4 <= done <= 9:
            there = {one.series_id for one in storage.snapshots.fetch("f", NAMES)}
            assert there | {GONE, AGAIN} == set(NAMES) if done >= 8 else there == set(NAMES)
        if 5 <= done < 20:
            assert storage.snapshots.complete_through("f") == 4
        storage.close()
