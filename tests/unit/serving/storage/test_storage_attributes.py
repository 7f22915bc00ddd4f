"""One contract for static covariates, which every storage keeps: what pruning leaves of them, what a fold sees."""

import pytest

from forecaster.serving.storage.contract import Storage
from forecaster.serving.storage.records import Attributes, Columns, Deletion, Record
from tests.unit.serving.storages import Opener, columns, erase_all, prune_all


def given(area: float, *names: str) -> Attributes:
    """Return a record that gives each of the series this area."""
    return Attributes(names, ({"area": area},) * len(names), ({},) * len(names))


def area(storage: Storage, name: str, through: int) -> float | None:
    """Return the area of a series as of a record, None if none is known."""
    known = storage.journal.attributes([name], through)
    return known.numbers[0]["area"] if len(known) else None


def rows(storage: Storage, name: str, last: int) -> list[float]:
    """Return all that a storage keeps of a series, each of them different, by asking for it as of every record."""
    kept = [area(storage, name, through) for through in range(last + 1)]
    return list(dict.fromkeys(one for one in kept if one is not None))


class TestWithoutAHistory:
    def test_pruning_leaves_the_latest_of_each_series(self, opener: Opener) -> None:
        storage = opener()
        storage.journal.append(given(1.0, "a", "b", "c"), given(2.0, "a"), columns(("a", 1, 1.0)), given(3.0, "a", "b"))
        storage.journal.append(columns(("a", 2, 1.0)), given(4.0, "a"))
        assert rows(storage, "a", 6) == [1.0, 2.0, 3.0, 4.0]
        assert prune_all(storage, 2, keep_history=False) == 2
        assert rows(storage, "a", 6) == [2.0, 3.0, 4.0]
        assert rows(storage, "b", 6) == [1.0, 3.0]  # what replaced it is in the journal still
        assert prune_all(storage, 5, keep_history=False) == 3
        assert rows(storage, "a", 6) == [3.0, 4.0]
        assert prune_all(storage, 6, keep_history=False) == 1
        for _ in range(2):
            assert [rows(storage, name, 6) for name in ("a", "b", "c", "d")] == [[4.0], [3.0], [1.0], []]
            assert sorted(storage.journal.attributes(["d", "c", "b", "a"]).series_ids) == ["a", "b", "c"]
            storage.close()
            storage = opener()
        storage.close()

    def test_nothing_is_left_where_one_pruning_takes_many_records(self, opener: Opener) -> None:
        """Of SQLite's, each of several transactions has the former value of the one before."""
        storage = opener()
        for k in range(50):
            storage.journal.append(*(given(8.0 * k + j, f"s{j}", "every") for j in range(8)))
        for through in (1, 3, 300, 399):
            prune_all(storage, through, keep_history=False)
            assert rows(storage, "every", 400) == [through - 1.0 + k for k in range(401 - through)]
        assert prune_all(storage, 400, keep_history=False) == 1
        assert rows(storage, "every", 400) == [399.0]
        assert [rows(storage, f"s{j}", 400) for j in range(8)] == [[392.0 + j] for j in range(8)]
        storage.close()

    def test_a_deleted_series_has_what_it_got_since(self, opener: Opener) -> None:
        storage = opener()
        storage.journal.append(given(1.0, "a", "b"), given(2.0, "a", "b"), Deletion("a"), given(3.0, "a", "b"))
        erase_all(storage)
        prune_all(storage, 4, keep_history=False)
        assert [rows(storage, name, 4) for name in ("a", "b")] == [[3.0], [3.0]]
        storage.close()


class TestAHistoryThatEnds:
    def test_former_values_go_with_the_first_records_that_are_dropped(self, opener: Opener) -> None:
        storage = opener()
        storage.journal.append(given(1.0, "a", "b"), columns(("a", 1, 1.0)), given(2.0, "a"), given(3.0, "b"))
        storage.journal.append(columns(("a", 2, 1.0)), columns(("a", 3, 1.0)))
        prune_all(storage, 3)
        assert storage.journal.first_sequence() == 1
        prune_all(storage, 5, keep_history=False)
        assert storage.journal.first_sequence() == 6
        assert [sequence for sequence, _ in storage.journal.read(0)] == [6]
        assert [rows(storage, name, 6) for name in ("a", "b")] == [[2.0], [3.0]]
        storage.close()


class TestWithAHistory:
    @pytest.mark.parametrize("through", [0, 2, 3, 5, 6])
    def test_what_held_at_each_record_is_known(self, opener: Opener, through: int) -> None:
        storage = opener()
        storage.journal.append(given(1.0, "a", "b"), columns(("a", 1, 1.0)), given(2.0, "a"), columns(("a", 2, 1.0)))
        storage.journal.append(given(3.0, "a"), columns(("a", 3, 1.0)))
        prune_all(storage, through)
        assert [area(storage, "a", k) for k in range(7)] == [None, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0]
        assert [area(storage, "b", k) for k in range(7)] == [None, *(1.0,) * 6]
        storage.close()

    def test_they_are_read_though_the_observations_beside_them_are_too_old(self, opener: Opener) -> None:
        storage = opener()
        records: list[Record] = [
            columns(("a", 1, 1.0)),
            given(1.0, "a", "b"),
            columns(("a", 2, 1.0)),
            given(2.0, "b"),
            columns(("a", 100, 1.0)),
            given(3.0, "a"),
            columns(("a", 3, 1.0)),
        ]
        storage.journal.append(*records)
        for taken in (0, 2, 4, 5, 7):  # records of the history
            prune_all(storage, taken)
            for after in (0, 2, 3):
                read = list(storage.journal.read(after, since_us=50))
                kept = [(sequence, one) for sequence, one in read if isinstance(one, Attributes)]
                assert kept == [(k, records[k - 1]) for k in (2, 4, 6) if k > after]
                assert [sequence for sequence, _ in read] == sorted(sequence for sequence, _ in read)
                young = [k for k, one in read if isinstance(one, Columns) and one.time_us.max() >= 50]
                assert young == [5]
        storage.close()
