"""What was said of a series' value at a time, against a dictionary of all that was said."""

import dataclasses
import math
import pathlib

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from forecaster.serving.storage.records import Columns, Deletion, Record, decode, encode
from forecaster.serving.storage.words import Words, look_up
from tests.unit.serving.storages import Opener, columns, erase_all, prune_all

VALUES = st.sampled_from([1.0, 2.0, math.nan])
ROWS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 4), VALUES, VALUES), min_size=1, max_size=8)
Row = tuple[str, int, float, float]


def record_of(rows: list[Row], *, amends: bool = False, beside: bool = True) -> Columns:
    """Return rows of (series, time, value, rain) as a record."""
    some = columns(*(row[:3] for row in rows), **({"rain": [row[3] for row in rows]} if beside else {}))
    return dataclasses.replace(some, amends=amends)


def plain(log: list[tuple[int, list[Row] | str]]) -> dict[tuple[str, int], list[tuple[int, str, str]]]:
    """Return all that was said of each series and time: when, the value, and the value with rain."""
    said: dict[tuple[str, int], list[tuple[int, str, str]]] = {}
    for committed_us, what in log:
        if isinstance(what, str):
            said = {key: words for key, words in said.items() if key[0] != what}
            continue
        for name, time, value, rain in what:
            said.setdefault((name, time), []).append((committed_us, repr(value), repr((value, rain))))
    return said


def check(
    words: Words, wanted: list[Row], whole: list[bool], said: dict[tuple[str, int], list[tuple[int, str, str]]]
) -> None:
    for k, (name, time, value, rain) in enumerate(wanted):
        known = said.get((name, time), [])
        mine = [word[2] if whole[k] else word[1] for word in known]
        row = repr((value, rain)) if whole[k] else repr(value)
        assert words.found[k] == bool(known)
        assert repr(float(words.values[k])) == (known[-1][1] if known else "nan")
        assert words.said[k] == (row in mine)
        assert words.is_last[k] == (bool(mine) and mine[-1] == row)
        if not words.is_last[k]:
            assert words.committed_us[k] == (known[-1][0] if known else 0)


@settings(max_examples=150, deadline=None)
@given(st.lists(ROWS, max_size=6), ROWS, st.lists(st.booleans(), min_size=8, max_size=8), st.integers(0, 6))
def test_words_equal_a_dictionary(
    records: list[list[Row]], wanted: list[Row], whole: list[bool], deleted_after: int
) -> None:
    log: list[tuple[int, list[Row] | str]] = [(10 * k, rows) for k, rows in enumerate(records)]
    log.insert(min(deleted_after, len(log)), (5, "a"))
    newest_first: list[tuple[int, Record]] = [
        (when, Deletion(what) if isinstance(what, str) else record_of(what)) for when, what in reversed(log)
    ]
    marks = np.array(whole[: len(wanted)])
    words = look_up(record_of(wanted), newest_first, most_rows=10_000, whole=marks)
    check(words, wanted, whole, plain(log))


def test_words_are_found_in_journal_and_history(opener: Opener, tmp_path: pathlib.Path) -> None:
    """Whatever of them was pruned; of a series that was deleted nothing is."""
    storage = opener()
    nan = math.nan
    parts: list[tuple[list[Row], bool]] = [
        ([("a", 1, 1.0, 5.0), ("b", 1, 1.0, nan), ("c", 1, 9.0, nan)], False),
        ([("a", 2, 2.0, nan), ("b", 2, 2.0, nan)], False),
        ([("a", 1, 2.0, 5.0), ("b", 1, nan, nan)], True),
        ([("a", 1, 1.0, 6.0), ("a", 0, 4.0, nan)], True),
        ([("a", 3, 1.0, nan)], False),
    ]
    log: list[tuple[int, list[Row] | str]] = []
    for k, (rows, amends) in enumerate(parts):
        assert storage.journal.append(record_of(rows, amends=amends)) == k + 1
        log.append((0, rows))
    storage.journal.append(Deletion("c"))
    said = plain([*log, (0, "c")])
    wanted = [
        (name, time, value, rain) for name in "abc" for time in range(4) for value, rain in [(1.0, 5.0), (nan, nan)]
    ]
    whole = [bool(k % 3) for k in range(len(wanted))]
    for through in (0, 2, 4, 6):
        if through == 6:
            erase_all(storage)
        prune_all(storage, through)
        words = storage.journal.find(record_of(wanted), whole=np.array(whole))
        known = Words(
            words.found, words.values, np.zeros(len(wanted), np.int64), words.said, words.is_last, words.is_whole
        )
        check(known, wanted, whole, said)
        when = words.committed_us[words.found]
        assert (when > 0).all()
        assert [r.amends for _, r in storage.journal.read(0) if isinstance(r, Columns)] == [a for _, a in parts]
    storage.close()


@pytest.mark.parametrize("beside", [True, False])
def test_a_late_record_comes_back_as_one(*, beside: bool) -> None:
    record = record_of([("a", 1, 1.0, 2.0)], amends=True, beside=beside)
    back = decode(encode(record))
    assert isinstance(back, Columns)
    assert back.amends
    assert back.covariate_names == record.covariate_names
    assert back.rows(slice(0, 1)).amends
