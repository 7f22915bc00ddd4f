"""The bytes of a record, and looking rows up among records."""

import dataclasses
import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from forecaster.serving.storage.issued import Issued
from forecaster.serving.storage.records import Attributes, Columns, Deletion, Record, decode, encode, without
from tests.unit.serving.storages import columns, exactly

ids = st.text(st.characters(blacklist_categories=("Cc", "Cs")), min_size=1, max_size=20)
rows = st.tuples(ids, st.integers(-(2**53), 2**53), st.floats(allow_nan=True, allow_infinity=False))


number = st.floats(allow_infinity=False)


@st.composite
def with_covariates(draw: st.DrawFn) -> Columns:
    record = columns(*draw(st.lists(rows, max_size=10)))
    names = tuple(draw(st.lists(st.text(st.characters(codec="utf-8")), unique=True, max_size=3)))
    beside = [[draw(number) for _ in names] for _ in range(len(record))]
    values = np.array(beside, dtype=np.float64).reshape(len(record), len(names))
    return dataclasses.replace(record, covariate_names=names, covariates=values)


@st.composite
def static_covariates(draw: st.DrawFn) -> Attributes:
    names = tuple(draw(st.lists(ids, unique=True, max_size=4)))
    numbers = tuple(draw(st.dictionaries(ids, st.floats(allow_nan=False, allow_infinity=False))) for _ in names)
    return Attributes(names, numbers, tuple(draw(st.dictionaries(ids, st.text())) for _ in names))


def issued(ids: tuple[str, ...], rows: int, width: int, seed: int = 0) -> Issued:
    rng = np.random.default_rng(seed)
    return Issued(
        "f" * 64,
        ids,
        np.sort(rng.integers(0, max(len(ids), 1), rows)).astype(np.int32),
        rng.integers(0, 4, rows).astype(np.uint8),
        rng.integers(-(2**53), 2**53, rows),
        rng.normal(size=(rows, 2)),
        rng.normal(size=(rows, width)).astype(np.float32),
    )


waiting = st.builds(
    issued,
    st.lists(ids, unique=True, min_size=1, max_size=4).map(tuple),
    st.integers(1, 6),
    st.sampled_from([0, 6, 10]),
    st.integers(0, 9),
)
observed = st.lists(rows, min_size=1, max_size=20).map(lambda r: columns(*r))


@settings(max_examples=200, deadline=None)
@given(st.one_of(observed, ids.map(Deletion), with_covariates(), static_covariates(), waiting))
def test_encoding_is_exact_and_torn_records_are_noticed(record: Record) -> None:
    payload = encode(record)
    assert exactly(decode(payload)) == exactly(record)
    with pytest.raises(ValueError, match=r"shorter|checksum|fit"):
        decode(payload[:-1])
    for at in range(len(payload)):
        flipped = payload[:at] + bytes([payload[at] ^ 1]) + payload[at + 1 :]
        with pytest.raises(ValueError, match=r"checksum"):
            decode(flipped)


def test_issued_forecasts_of_some_series_leave_nothing_of_the_others() -> None:
    record = issued(("a", "bb", "c"), rows=9, width=6)
    some = record.of([2, 0])
    assert some.series_ids == ("a", "c")
    assert b"bb" not in encode(some)
    kept = record.series != 1
    np.testing.assert_array_equal(some.bounds, record.bounds[kept])
    assert [some.series_ids[i] for i in some.series] == [record.series_ids[i] for i in record.series[kept]]


def test_what_was_issued_for_deleted_series_is_erased() -> None:
    numbers = np.arange(3.0)
    record = Issued(
        "f" * 64,
        ("kept", "gone"),
        np.array([0, 1, 0], dtype=np.int32),
        np.array([0, 0, 1], dtype=np.uint8),
        np.array([5, 6, 5]),
        np.stack([numbers, numbers + 10], axis=1),
        np.repeat(numbers[:, None], 10, axis=1).astype(np.float32),
    )
    left = without(record, {"gone", "other"})
    assert isinstance(left, Issued)
    assert (left.series_ids, left.series.tolist(), left.frame[:, 0].tolist()) == (("kept",), [0, 0], [0.0, 2.0])
    assert b"gone" not in encode(left)
    assert without(record, {"kept", "gone"}) is None
    assert without(record, {"other"}) is record


OLD_ROWS = (
    "5e017a59010200000003000000060000006100c3a9206200000000010000000000000000a493d600000000fbffffffffffffff004827ad"
    "01000000000000000000f83f000000000000f87f0000000000000080"
)


def test_records_of_before_there_were_covariates_are_read_and_written_as_ever() -> None:
    rows = columns(("a", 3_600_000_000, 1.5), ("é b", -5, math.nan), ("a", 7_200_000_000, -0.0))
    assert encode(rows).hex() == OLD_ROWS
    assert exactly(decode(bytes.fromhex(OLD_ROWS))) == exactly(rows)
    assert decode(bytes.fromhex("c0fd98b302010000000000000004000000c3a92062")) == Deletion("é b")


def test_covariates_are_taken_by_name() -> None:
    rows = dataclasses.replace(
        columns(("a", 1, 1.0), ("a", 2, 2.0)), covariate_names=("x", "y"), covariates=np.array([[1.0, 2.0], [3.0, 4.0]])
    )
    other = rows.with_covariates(("y", "new", "x"))
    assert other.covariate_names == ("y", "new", "x")
    np.testing.assert_array_equal(other.covariates, [[2.0, math.nan, 1.0], [4.0, math.nan, 3.0]])
    assert rows.with_covariates(("x", "y")) is rows
    assert rows.with_covariates(()).covariates is None
    assert columns(("a", 1, 1.0)).with_covariates(("x",)).covariates is None
