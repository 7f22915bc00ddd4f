"""One contract for every storage: journal, snapshots, history and what is forgotten."""

import math
import threading

import numpy as np
import pytest

from forecaster.errors import StorageError
from forecaster.serving.storage.contract import AMENDED, IDLE, RETURNED, Activation, Storage
from forecaster.serving.storage.records import Attributes, Deletion, Record, Snapshot
from forecaster.serving.storage.volatile import VolatileStorage
from tests.unit.serving.storages import FOR_EVER_US, Opener, columns, contents, erase_all, plain, prune_all

RECORDS: list[Record] = [
    columns(("a", 1, 1.5), ("b", 1, math.nan), ("a", 2, -0.0)),
    Deletion("b"),
    Attributes(("b", "c"), ({"area": 1.5}, {}), ({}, {"region": "é"})),
    columns(("b", 9, 1e300)),
    columns(("b", 10, 1.0), ("c", 10, 2.0), rain=[math.nan, 0.5], y=[1.0, 2.0]),
]
EXPECTED = [(k + 1, plain(record)) for k, record in enumerate(RECORDS)]


def found_at(storage: Storage, *keys: tuple[str, int]) -> list[float | None]:
    words = storage.journal.find(columns(*((name, time, 0.0) for name, time in keys)))
    return [value if there else None for there, value in zip(words.found.tolist(), words.values.tolist(), strict=True)]


class TestJournal:
    def test_records_come_back_in_order_after_reopening(self, opener: Opener) -> None:
        storage = opener()
        assert (storage.journal.last_sequence(), storage.journal.first_sequence()) == (0, 1)
        assert [storage.journal.append(record) for record in RECORDS] == [1, 2, 3, 4, 5]
        storage.close()
        storage = opener()
        assert contents(storage) == EXPECTED
        assert contents(storage, 2) == EXPECTED[2:]
        assert (storage.journal.last_sequence(), storage.journal.first_sequence()) == (5, 1)
        storage.close()

    def test_records_are_written_together(self, opener: Opener) -> None:
        storage = opener()
        assert storage.journal.append(*RECORDS) == 5
        assert contents(storage) == EXPECTED
        storage.close()

    def test_all_records_or_none_are_written(self, opener: Opener) -> None:
        storage = opener()
        with pytest.raises((AttributeError, TypeError)):
            storage.journal.append(columns(("a", 1, 1.0)), None)  # type: ignore[arg-type]
        assert contents(storage) == []
        assert storage.journal.append(columns(("a", 1, 1.0))) == 1
        storage.close()

    def test_old_observations_may_be_left_out_but_nothing_else(self, opener: Opener) -> None:
        storage = opener()
        storage.journal.append(*RECORDS)
        for taken in (0, 1):
            left = [(sequence, plain(record)) for sequence, record in storage.journal.read(0, since_us=9)]
            assert left == EXPECTED[1:] if taken == 0 else left[-4:] == EXPECTED[1:]
            prune_all(storage, 1)
        storage.close()

    def test_rows_are_found_by_series_and_time(self, opener: Opener) -> None:
        storage = opener()
        storage.journal.append(columns(("a", 1, 1.0), ("b", 1, 2.0), ("a", 2, math.nan)))
        storage.journal.append(columns(("a", 5, 3.0), ("c", 2, 4.0)))
        storage.journal.append(Deletion("c"))
        storage.journal.append(Attributes(("a",), ({"area": 1.0},), ({},)))
        storage.journal.append(columns(("b", 7, 5.0)))
        for _ in range(3):  # in the journal, half in the history, all in the history
            found = found_at(storage, ("a", 2), ("c", 2), ("b", 1), ("a", 3), ("x", 1), ("b", 1), ("b", 7))
            assert found[0] is not None
            assert math.isnan(found[0])
            assert found[1:] == [None, 2.0, None, None, 2.0, 5.0]
            if not prune_all(storage, 1):
                erase_all(storage)
                prune_all(storage, 5)
        storage.close()

    def test_the_latest_attributes_are_kept(self, opener: Opener) -> None:
        storage = opener()
        storage.journal.append(Attributes(("a", "b"), ({"area": 1.0}, {}), ({}, {"region": "x"})))
        storage.journal.append(Attributes(("b", "c"), ({"area": 2.0}, {}), ({}, {"région": "é"})))
        storage.journal.append(Deletion("a"))
        prune_all(storage, 3)
        storage.close()
        storage = opener()
        known = storage.journal.attributes(["c", "a", "x", "b", "b"])
        told = dict(zip(known.series_ids, zip(known.numbers, known.categories, strict=True), strict=True))
        assert told == {"b": ({"area": 2.0}, {}), "c": ({}, {"région": "é"})}
        assert len(known) == 2
        storage.close()

    def test_a_second_owner_is_refused(self, opener: Opener) -> None:
        storage = opener()
        with pytest.raises(StorageError, match="in use by another server"):
            opener()
        storage.close()
        opener().close()

    def test_another_thread_works_beside(self, opener: Opener) -> None:
        """Appends, snapshots and pruning go on at the same time; a reader misses and repeats nothing."""
        storage = opener()
        storage.journal.append(columns(("a", 1, 1.0)))
        read: list[list[int]] = []
        done = threading.Event()

        def prune_and_read() -> None:
            other = storage.beside()
            while not done.is_set():
                last = other.journal.last_sequence()
                other.snapshots.save("f", [Snapshot.of("a", last, b"x" * 100)])
                reader = other.journal.read(0)
                start = [next(reader)[0]]
                other.journal.prune(last - 5, committed_before_us=FOR_EVER_US, keep_history=True)
                read.append(start + [sequence for sequence, _ in reader])
            other.close()

        thread = threading.Thread(target=prune_and_read)
        thread.start()
        for k in range(2, 400):
            assert storage.journal.append(columns(("a", k, float(k)), ("b", k, 1.0))) == k
        done.set()
        thread.join()
        assert all(sequences == list(range(1, len(sequences) + 1)) for sequences in read)
        assert [sequence for sequence, _ in storage.journal.read(0)] == list(range(1, 400))
        assert found_at(storage, ("a", 1), ("a", 200), ("b", 399)) == [1.0, 200.0, 1.0]
        storage.close()


class TestHistory:
    def test_pruned_records_are_read_as_ever(self, opener: Opener) -> None:
        storage = opener()
        for record in RECORDS:
            storage.journal.append(record)
        assert prune_all(storage, 5) == 0  # the first record's series waits for its erasure
        assert contents(storage) == EXPECTED
        erase_all(storage)
        assert prune_all(storage, 4) == 3
        kept = [(1, plain(columns(("a", 1, 1.5), ("a", 2, -0.0)))), *EXPECTED[2:]]
        for _ in range(2):
            assert contents(storage) == kept
            assert contents(storage, 4) == EXPECTED[4:]
            assert (storage.journal.first_sequence(), storage.journal.last_sequence()) == (1, 5)
            storage.close()
            storage = opener()
        assert prune_all(storage, 5) == 1
        assert contents(storage) == kept
        storage.close()

    def test_only_what_is_old_enough_is_pruned(self, opener: Opener) -> None:
        storage = opener()
        storage.journal.append(columns(("a", 1, 1.0)))
        assert storage.journal.prune(1, committed_before_us=0, keep_history=True) == 0
        assert storage.journal.prune(0, committed_before_us=FOR_EVER_US, keep_history=True) == 0
        assert storage.journal.prune(1, committed_before_us=FOR_EVER_US, keep_history=True) == 1
        storage.close()

    @pytest.mark.parametrize("keep_history", [True, False])
    def test_sequences_never_come_back(self, opener: Opener, keep_history: bool) -> None:
        storage = opener()
        storage.journal.append(columns(("a", 1, 1.0)), columns(("a", 2, 2.0)))
        assert prune_all(storage, 2, keep_history=keep_history) == 2
        for _ in range(2):
            assert storage.journal.last_sequence() == 2
            assert storage.journal.first_sequence() == (1 if keep_history else 3)
            assert len(contents(storage)) == (2 if keep_history else 0)
            storage.close()
            storage = opener()
        assert storage.journal.append(columns(("a", 3, 3.0))) == 3
        assert found_at(storage, ("a", 2), ("a", 3)) == [2.0 if keep_history else None, 3.0]
        storage.close()

    def test_a_reader_that_is_overtaken_says_so(self, opener: Opener) -> None:
        storage = opener()
        for k in range(1, 2501):
            storage.journal.append(columns(("a", k, 1.0)))
        prune_all(storage, 10)
        reader = storage.journal.read(0)
        assert next(reader)[0] == 1
        assert prune_all(storage, 2400, keep_history=False) == 2390
        with pytest.raises(StorageError, match=r"records \d+ to 2400 were dropped"):
            list(reader)
        assert [sequence for sequence, _ in storage.journal.read(0)] == list(range(2401, 2501))
        storage.close()

    def test_rows_of_a_series_stay_in_order(self, opener: Opener) -> None:
        storage = opener()
        rows = [(f"s{k % 3}", 1000 - k, float(k)) for k in range(50)]  # times need not ascend
        for start in range(0, 50, 7):
            storage.journal.append(columns(*rows[start : start + 7]))
        before = contents(storage)
        for through in (2, 3, 8):
            prune_all(storage, through)
            assert contents(storage) == before
        storage.close()


class TestErasure:
    def test_what_a_series_got_before_its_deletion_goes_and_the_rest_stays(self, opener: Opener) -> None:
        storage = opener()
        storage.journal.append(columns(("a", 1, 1.0), ("b", 1, 2.0)), columns(("a", 2, 3.0)))
        prune_all(storage, 1)
        storage.journal.append(columns(("a", 3, 4.0), ("b", 3, 5.0)), Attributes(("a", "b"), ({}, {}), ({}, {})))
        storage.journal.append(Deletion("a"))
        storage.journal.append(columns(("a", 9, 6.0)))
        assert found_at(storage, ("a", 1), ("a", 2), ("a", 3), ("a", 9), ("b", 3)) == [None, None, None, 6.0, 5.0]
        assert erase_all(storage) > 0
        for _ in range(2):
            assert contents(storage) == [
                (1, plain(columns(("b", 1, 2.0)))),
                (3, plain(columns(("b", 3, 5.0)))),
                (4, Attributes(("b",), ({},), ({},))),
                (6, plain(columns(("a", 9, 6.0)))),
            ]
            assert found_at(storage, ("a", 1), ("a", 9), ("b", 1)) == [None, 6.0, 2.0]
            assert storage.journal.last_sequence() == 6
            assert storage.journal.erase() == 0
            storage.close()
            storage = opener()
        storage.close()

    def test_a_series_may_be_deleted_again_and_again(self, opener: Opener) -> None:
        storage = opener()
        for k in range(3):
            storage.journal.append(columns(("a", k, float(k)), ("b", k, 1.0)))
            storage.journal.append(Deletion("a"))
        assert prune_all(storage, 6) == 0
        erase_all(storage)
        assert contents(storage) == [(2 * k + 1, plain(columns(("b", k, 1.0)))) for k in range(3)]
        assert prune_all(storage, 6) == 3
        assert storage.journal.append(Deletion("b")) == 7
        erase_all(storage)
        assert contents(storage) == []
        assert storage.journal.last_sequence() == 7
        storage.close()

    def test_what_is_deleted_while_another_is_erased_comes_next(self, opener: Opener) -> None:
        storage = opener()
        storage.journal.append(columns(("a", 1, 1.0), ("b", 1, 2.0)), Deletion("a"))
        assert storage.journal.erase() > 0
        storage.journal.append(columns(("a", 2, 3.0)), Deletion("b"), Deletion("a"))
        erase_all(storage)
        assert contents(storage) == []
        storage.close()


class TestSnapshots:
    def test_each_fingerprint_has_its_own(self, snapshots_opener: Opener) -> None:
        storage = snapshots_opener()
        snapshots = storage.snapshots
        first = [Snapshot.of(name, 0, name.encode()) for name in ("é", "a", "B", "😀", "~")]
        snapshots.save("one", first)
        snapshots.save("two", [Snapshot.of("a", 0, b"z")])
        by_code_point = sorted(first, key=lambda s: s.series_id)
        assert list(snapshots.read("one")) == by_code_point
        assert list(snapshots.read("one", "a")) == by_code_point[2:]
        assert snapshots.fetch("one", ["x", "é", "a", "a"]) in ([first[0], first[1]], [first[1], first[0]])
        assert snapshots.fetch("two", ["a", "é"]) == [Snapshot.of("a", 0, b"z")]
        assert snapshots.fetch("three", ["a"]) == snapshots.fetch("one", []) == []
        assert (snapshots.count("one"), snapshots.count("two"), snapshots.count("three")) == (5, 1, 0)
        assert sorted(snapshots.fingerprints()) == ["one", "two"]
        snapshots.drop("one")
        assert (snapshots.count("one"), snapshots.fingerprints()) == (0, ["two"])
        assert list(snapshots.read("one")) == []
        snapshots.sync()
        storage.close()

    def test_the_latest_stays(self, snapshots_opener: Opener) -> None:
        storage = snapshots_opener()
        for k in range(5):
            storage.journal.append(columns(("a", k, 1.0)))
        storage.snapshots.save("f", [Snapshot.of("a", 1, b"x"), Snapshot.of("b", 1, b"y")])
        storage.snapshots.save("f", [Snapshot.of("a", 3, b"z")])
        storage.snapshots.save("f", [Snapshot.of("a", 2, b"late")])  # from another thread, of before
        storage.snapshots.save("f", [Snapshot.of("b", 1, b"again")])
        assert list(storage.snapshots.read("f")) == [Snapshot.of("a", 3, b"z"), Snapshot.of("b", 1, b"again")]
        storage.close()

    def test_many_are_fetched_in_a_few_queries(self, snapshots_opener: Opener) -> None:
        storage = snapshots_opener()
        all_of_them = [Snapshot.of(f"series {k}", 0, bytes([k % 256]) * 50) for k in range(5000)]
        storage.snapshots.save("f", all_of_them)
        wanted = [s.series_id for s in all_of_them[::2]]
        assert sorted(s.series_id for s in storage.snapshots.fetch("f", wanted)) == sorted(wanted)
        assert [s.series_id for s in storage.snapshots.read("f")] == sorted(s.series_id for s in all_of_them)
        storage.close()

    def test_a_deletion_takes_them_along(self, snapshots_opener: Opener) -> None:
        storage = snapshots_opener()
        storage.journal.append(columns(("a", 1, 1.0), ("b", 1, 1.0)))
        for fingerprint in ("one", "two"):
            storage.snapshots.save(fingerprint, [Snapshot.of("a", 1, b"x"), Snapshot.of("b", 1, b"x")])
        storage.journal.append(Deletion("a"))
        storage.journal.append(columns(("a", 2, 1.0)))
        for fingerprint in ("one", "two"):
            assert storage.snapshots.fetch(fingerprint, ["a", "b"]) == [Snapshot.of("b", 1, b"x")]
            assert storage.snapshots.count(fingerprint) == 1
        storage.snapshots.save("one", [Snapshot.of("a", 3, b"new")])
        erase_all(storage)
        assert storage.snapshots.fetch("one", ["a"]) == [Snapshot.of("a", 3, b"new")]
        storage.close()

    def test_idle_series_are_kept_instead_of_all_models_states(self, snapshots_opener: Opener) -> None:
        storage = snapshots_opener()
        for k in range(5):
            storage.journal.append(columns(("a", k, 1.0), ("b", k, 1.0), ("c", k, 1.0)))
        snapshots = storage.snapshots
        for fingerprint, sequence in (("one", 1), ("two", 2)):
            snapshots.save(fingerprint, [Snapshot.of(name, sequence, b"state") for name in "abc"])
        snapshots.save("two", [Snapshot.of("c", 4, b"newer")])
        idle = [Snapshot.of(name, 2, b"where it stood") for name in "ac"]
        snapshots.set_idle(idle)
        assert list(snapshots.read(IDLE)) == idle
        assert [one.series_id for one in snapshots.read("one")] == ["b"]
        assert list(snapshots.read("two")) == [Snapshot.of("b", 2, b"state"), Snapshot.of("c", 4, b"newer")]
        back = Snapshot.of("a", 5, b"state again")
        snapshots.end_idle("two", [back], ["a"])
        assert list(snapshots.read(IDLE)) == idle[1:]
        assert snapshots.fetch("two", ["a"]) == [back]
        assert [one.series_id for one in snapshots.read(RETURNED)] == ["a"]
        assert sorted(snapshots.fingerprints()) == ["one", "two"]  # those are no models
        snapshots.settle_returned("two")
        assert snapshots.count(RETURNED) == 1
        snapshots.end_idle("two", [], ["c", "nobody"])
        assert (snapshots.count(IDLE), snapshots.count(RETURNED)) == (0, 2)
        snapshots.set_idle([Snapshot.of("a", 5, b"again"), Snapshot.of("c", 5, b"again")])
        snapshots.end_idle("three", [], ["a"])
        storage.journal.append(Deletion("c"))
        assert (snapshots.count(IDLE), snapshots.fetch(RETURNED, ["c"])) == (0, [])
        snapshots.settle_returned("three")
        assert [one.series_id for one in snapshots.read(RETURNED)] == ["a"]
        snapshots.settle_returned("four")
        assert snapshots.count(RETURNED) == 0
        storage.close()

    def test_notes(self, snapshots_opener: Opener) -> None:
        storage = snapshots_opener()
        storage.journal.append(columns(("a", 1, 1.0)), columns(("a", 2, 1.0)))
        snapshots = storage.snapshots
        assert (snapshots.complete_through("f"), snapshots.active()) == (None, None)
        snapshots.complete("f", 0)
        assert (snapshots.complete_through("f"), snapshots.fingerprints()) == (0, ["f"])
        snapshots.complete("f", 2)
        snapshots.complete("g", 1)
        assert (snapshots.complete_through("f"), snapshots.complete_through("g")) == (2, 1)
        snapshots.drop("f")
        assert (snapshots.complete_through("f"), snapshots.fingerprints()) == (None, ["g"])
        snapshots.activate(Activation("3", "f"))
        snapshots.activate(Activation("4", "g"))
        assert snapshots.active() == Activation("4", "g")
        storage.close()

    def test_the_files_of_the_active_model_are_kept(self, opener: Opener) -> None:
        storage = opener()
        assert storage.snapshots.kept_bundle("f") is None
        storage.snapshots.keep_bundle("f", {"one": b"1", "two": bytes(100_000)})
        storage.snapshots.keep_bundle("f", {"one": b"x", "two": b"y"})
        storage.snapshots.keep_bundle("g", {"one": b"3"})
        for _ in range(2):
            assert storage.snapshots.kept_bundle("f") == {"one": b"x", "two": b"y"}
            assert storage.snapshots.kept_bundle("g") == {"one": b"3"}
            storage.close()
            storage = opener()
        storage.snapshots.activate(Activation("2", "g"))
        assert (storage.snapshots.kept_bundle("f"), storage.snapshots.kept_bundle("g")) == (None, {"one": b"3"})
        storage.close()

    def test_they_are_there_after_reopening(self, opener: Opener) -> None:
        storage = opener()
        storage.journal.append(columns(("a", 1, 1.0)), columns(("b", 1, 1.0)))
        storage.snapshots.save("f", [Snapshot.of("a", 1, b"x")])
        storage.snapshots.complete("f", 2)
        storage.snapshots.activate(Activation("3", "f"))
        storage.close()
        storage = opener()
        assert storage.snapshots.fetch("f", ["a"]) == [Snapshot.of("a", 1, b"x")]
        assert storage.snapshots.fetch("f", ["a"])[0].is_whole
        assert storage.snapshots.complete_through("f") == 2
        assert storage.snapshots.active() == Activation("3", "f")
        storage.close()


def test_none_keeps_no_record(snapshots_opener: Opener) -> None:
    """And a durable one keeps the same attributes."""
    storage = snapshots_opener()
    storage.journal.append(Attributes(("a",), ({"area": 1.0},), ({},)))
    assert storage.journal.append(columns(("a", 1, 1.0))) == storage.journal.last_sequence() == 2
    assert storage.journal.attributes(["a", "b"]) == Attributes(("a",), ({"area": 1.0},), ({},))
    if snapshots_opener is VolatileStorage:
        assert contents(storage) == []
        assert storage.journal.first_sequence() == 3
        assert found_at(storage, ("a", 1)) == [None]
        assert not np.any(storage.journal.find(columns(("a", 1, 0.0))).found)
    storage.close()


def test_states_that_know_corrections_take_the_place_of_those_of_all_models(snapshots_opener: Opener) -> None:
    """Not of what is newer; and who was corrected again waits on."""
    storage = snapshots_opener()
    snapshots = storage.snapshots
    for _ in range(9):
        storage.journal.append(columns(("a", 1, 1.0)))
    snapshots.save("f", [Snapshot.of(name, 1, b"old") for name in "ab"])
    snapshots.save("g", [Snapshot.of("a", 1, b"old"), Snapshot.of("b", 9, b"newer")])
    snapshots.save(AMENDED, [Snapshot.of("a", 3, b"first"), Snapshot.of("b", 7, b"again")])
    snapshots.end_amended("f", [Snapshot.of("a", 5, b"new"), Snapshot.of("b", 5, b"new")], 4)
    kept = {name: {(s.series_id, s.sequence, s.state) for s in snapshots.read(name)} for name in ("f", "g", AMENDED)}
    assert kept["f"] == {("a", 5, b"new"), ("b", 5, b"new")}
    assert kept["g"] == {("b", 9, b"newer")}
    assert kept[AMENDED] == {("b", 7, b"again")}
    assert {(s.series_id, s.state) for s in snapshots.read(RETURNED)} == {("a", b"f"), ("b", b"f")}
    assert sorted(snapshots.fingerprints()) == ["f", "g"]
    storage.close()
