"""What pruning a journal's SQLite file costs those who wait for it."""

import pathlib

from forecaster.serving.storage.records import Attributes
from tests.unit.serving.storages import columns, prune_all, sqlite_opener


def test_static_covariates_of_others_are_not_looked_through(tmp_path: pathlib.Path) -> None:
    """An append waits for each of its transactions, however many series have static covariates."""
    storage = sqlite_opener(tmp_path)()
    names = tuple(f"s{k}" for k in range(20_000))
    storage.journal.append(Attributes(names, ({"area": 1.0},) * len(names), ({},) * len(names)))
    prune_all(storage, 1, keep_history=False)
    last = storage.journal.append(*(columns(("s1", k, 1.0)) for k in range(10)))
    last = storage.journal.append(Attributes(("s1",), ({"area": 2.0},), ({},)))
    steps = [0]

    def count() -> None:
        steps[0] += 100

    storage._database._connection.set_progress_handler(count, 100)  # type: ignore[attr-defined]
    assert prune_all(storage, last, keep_history=False) == 11
    assert 0 < steps[0] < 5_000  # of SQLite's machine: one for each series would be far more
    assert storage.journal.attributes(["s1"], last - 1).series_ids == ()
    assert storage.journal.attributes(["s1", "s2"]).numbers == ({"area": 2.0}, {"area": 1.0})
    storage.close()
