"""What was issued for a series goes with it, wherever records lie."""

from collections.abc import Callable

import numpy as np
import pytest

from forecaster.serving import postgres_erasure, sqlite_erasure
from forecaster.serving.issued import Issued
from forecaster.serving.records import Record, encode


@pytest.mark.parametrize("without", [sqlite_erasure._without, postgres_erasure.without])
def test_what_was_issued_for_deleted_series_is_erased(without: Callable[[Record, set[str]], Record | None]) -> None:
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
