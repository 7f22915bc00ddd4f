"""Whatever happens in whatever order, a storage equals a plain list."""

import math
import pathlib
import tempfile
from collections.abc import Iterator

import hypothesis.strategies as st
import numpy as np
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from forecaster.serving.storage.contract import Storage
from forecaster.serving.storage.records import Attributes, Columns, Deletion, Snapshot
from tests.unit.serving.storages import FOR_EVER_US, columns, contents, sqlite_opener

IDS = ("a", "b", "é b", "long " * 20)
ids = st.sampled_from(IDS)
rows = st.lists(st.tuples(ids, st.floats(allow_infinity=False)), min_size=1, max_size=8)

Given = tuple[int, str, dict[str, float]]  # sequence, id, static covariates
Row = tuple[int, str, int, str, tuple[tuple[str, float], ...]]  # sequence, id, time, value, covariates


class StorageMachine(RuleBasedStateMachine):
    """Compares with lists and dictionaries after every step."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._opener = sqlite_opener(pathlib.Path(self._folder.name), "interval")
        self.storage: Storage = self._opener()
        self.rows: list[Row] = []
        self.deletions: dict[int, str] = {}
        self.given: list[Given] = []
        self.snapshots: dict[tuple[str, str], Snapshot] = {}
        self.last = self.clock = self.dropped = 0

    @initialize()
    def begin(self) -> None:
        assert self.storage.journal.last_sequence() == 0

    @rule(new=rows, covariate=st.sampled_from(["", "rain", "ds", "covariate:y"]), value=st.floats(-9, 9))
    def observe(self, new: list[tuple[str, float]], covariate: str, value: float) -> None:
        timed = [(name, self.clock + k, y) for k, (name, y) in enumerate(new)]
        self.clock += len(timed)
        beside = {covariate: [value + k for k in range(len(timed))]} if covariate else {}
        self.last += 1
        assert self.storage.journal.append(columns(*timed, **beside)) == self.last
        for k, (name, time_us, y) in enumerate(timed):
            given = tuple((name, values[k]) for name, values in beside.items())
            self.rows.append((self.last, name, time_us, repr(None if math.isnan(y) else y), given))

    @rule(names=st.lists(ids, min_size=1, unique=True), area=st.floats(0, 1))
    def describe(self, names: list[str], area: float) -> None:
        count = len(names)
        record = Attributes(tuple(names), ({"area": area},) * count, ({"region": "é"},) * count)
        self.last += 1
        assert self.storage.journal.append(record) == self.last
        self.given += [(self.last, name, {"area": area}) for name in names]

    @rule(name=ids)
    def delete(self, name: str) -> None:
        self.last += 1
        assert self.storage.journal.append(Deletion(name)) == self.last
        self.deletions[self.last] = name
        self.given = [one for one in self.given if one[1] != name]
        self.rows = [row for row in self.rows if row[1] != name]
        self.snapshots = {key: s for key, s in self.snapshots.items() if key[1] != name}

    @rule(back=st.integers(0, 6), keep_history=st.booleans(), calls=st.integers(1, 3))
    def prune(self, back: int, keep_history: bool, calls: int) -> None:
        before = {sequence for sequence, _ in contents(self.storage)}
        for _ in range(calls):
            self.storage.journal.prune(self.last - back, committed_before_us=FOR_EVER_US, keep_history=keep_history)
        gone = before - {sequence for sequence, _ in contents(self.storage)}
        if not keep_history and gone:
            assert max(gone) <= self.last - back
            self.dropped = max(self.dropped, *gone)

    @rule(calls=st.integers(1, 4))
    def erase(self, calls: int) -> None:
        done = [self.storage.journal.erase() for _ in range(calls)]
        left = {s: record.series_id for s, record in self.storage.journal.read(0) if isinstance(record, Deletion)}
        assert left.items() <= self.deletions.items()
        assert done[-1] or not left
        self.deletions = left  # a snapshot from before an erased deletion is its sender's mistake

    @rule(name=ids, fingerprint=st.sampled_from("fg"), back=st.integers(0, 2), state=st.binary(max_size=40))
    def save(self, name: str, fingerprint: str, back: int, state: bytes) -> None:
        last_deletion = max((s for s, deleted in self.deletions.items() if deleted == name), default=0)
        snapshot = Snapshot.of(name, max(self.last - back, 0), state)
        self.storage.snapshots.save(fingerprint, [snapshot])
        there = self.snapshots.get((fingerprint, name))
        if snapshot.sequence >= last_deletion and (there is None or there.sequence <= snapshot.sequence):
            self.snapshots[fingerprint, name] = snapshot

    @rule()
    def reopen(self) -> None:
        self.storage.close()
        self.storage = self._opener()

    @invariant()
    def the_fold_is_the_same(self) -> None:
        assert self.storage.journal.last_sequence() == self.last
        read: list[Row] = []
        given: list[Given] = []
        for sequence, record in self.storage.journal.read(0):
            assert self.dropped < sequence <= self.last
            if isinstance(record, Deletion):
                read = [row for row in read if row[1] != record.series_id]
                given = [one for one in given if one[1] != record.series_id]
            elif isinstance(record, Attributes):
                given += [(sequence, *one) for one in zip(record.series_ids, record.numbers, strict=True)]
                assert all(one == {"region": "é"} for one in record.categories)
            elif isinstance(record, Columns):
                read += rows_of(sequence, record)
        assert by_series(read) == by_series([row for row in self.rows if row[0] > self.dropped])
        expected = [one for one in self.given if one[0] > self.dropped]
        assert sorted(given, key=lambda one: one[:2]) == sorted(expected, key=lambda one: one[:2])

    @invariant()
    def rows_are_found(self) -> None:
        wanted = columns(*((name, time_us, 0.0) for name in IDS for time_us in range(0, self.clock + 1)))
        words = self.storage.journal.find(wanted)
        names = [wanted.series_ids[k] for k in wanted.series]
        keys = zip(names, wanted.time_us.tolist(), strict=True)
        told = {key: value for key, there, value in zip(keys, words.found, words.values, strict=True) if there}
        expected = {row[1:3]: row[3] for row in self.rows}
        kept = {row[1:3] for row in self.rows if row[0] > self.dropped}
        assert kept <= told.keys() <= expected.keys()
        assert all(repr(None if np.isnan(v) else float(v)) == expected[key] for key, v in told.items())

    @invariant()
    def attributes_are_the_latest(self) -> None:
        for through in {self.dropped, (self.dropped + self.last) // 2, self.last}:
            known = self.storage.journal.attributes(IDS, through)
            expected = {name: numbers for sequence, name, numbers in self.given if sequence <= through}
            assert dict(zip(known.series_ids, known.numbers, strict=True)) == expected
        past = [(one.series_ids[0], one.numbers[0]) for one in self.storage.journal.past_attributes(IDS)]
        kept = [(name, numbers) for sequence, name, numbers in self.given if sequence > self.dropped]
        ever = [(name, numbers) for _, name, numbers in self.given]
        for name in IDS:  # in order
            mine, all_of = ([one for one in part if one[0] == name] for part in (past, ever))
            assert all_of[len(all_of) - len(mine) :] == mine
            assert len(mine) >= sum(one[0] == name for one in kept)

    @invariant()
    def snapshots_are_the_latest(self) -> None:
        for fingerprint in "fg":
            expected = [s for (of, _), s in sorted(self.snapshots.items()) if of == fingerprint]
            assert list(self.storage.snapshots.read(fingerprint)) == expected
            assert sorted(self.storage.snapshots.fetch(fingerprint, IDS), key=lambda s: s.series_id) == expected
            assert self.storage.snapshots.count(fingerprint) == len(expected)

    def teardown(self) -> None:
        self.storage.close()
        self._folder.cleanup()


def rows_of(sequence: int, record: Columns) -> Iterator[Row]:
    for k in range(len(record)):
        given = [] if record.covariates is None else zip(record.covariate_names, record.covariates[k], strict=True)
        value = float(record.values[k])
        yield (
            sequence,
            record.series_ids[record.series[k]],
            int(record.time_us[k]),
            repr(None if math.isnan(value) else value),
            tuple((name, float(v)) for name, v in given if not math.isnan(v)),
        )


def by_series(rows: list[Row]) -> dict[str, list[Row]]:
    """Return each series' rows in order: only that counts."""
    return {name: [row for row in rows if row[1] == name] for name in IDS}


StorageMachine.TestCase.settings = settings(max_examples=50, stateful_step_count=25, deadline=None)
TestStorageEqualsLists = StorageMachine.TestCase
