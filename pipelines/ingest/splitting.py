"""Rows of all sources, split by stretches of time in a scratch file: what an ingest keeps of them until it merges them.

The file has the rows of one batch after the other, those of a partition together, as fixed-size records; an index in
memory says where each stretch lies. Reading one touches just its bytes, so that memory is that of a batch and of a
partition, however many rows there are. (A Parquet file for each batch and partition would be far more files, and one
for each batch would decode a whole row group for a few rows.)

Knows nothing of where rows come from, or of what becomes of them.
"""

import collections
import datetime as dt
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from forecaster.config.ingest import Partition
from pipelines.ingest.series_table import SAID

_EVERY = {"day": "1d", "month": "1mo", "year": "1y"}
_LENGTH = {"day": 10, "month": 7, "year": 4}  # of an ISO 8601 date
RANK_BITS = 40
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def label(start_us: int, partition: Partition) -> str:
    """Return the name of a stretch of time, such as 2013-01."""
    return (_EPOCH + dt.timedelta(microseconds=start_us)).date().isoformat()[: _LENGTH[partition]]


class Split:
    """The rows, by partition.

    Args:
        path: of the scratch file, which is made.
        partition: the stretch of time.
        values: the columns of numbers beside series and time; flags are numbers too.
    """

    def __init__(self, path: Path, partition: Partition, values: Sequence[str]) -> None:
        self._partition, self._values = partition, list(values)
        fixed = [("code", "<u4"), ("order", "<i8"), ("us", "<i8")]
        self._type = np.dtype(fixed + [(f"value{k}", "<f8") for k in range(len(self._values))])
        self._file = path.open("w+b")
        self._end = 0
        self._pieces: dict[int, list[tuple[int, int]]] = collections.defaultdict(list)

    def add(self, order: int, codes: pl.Series, rows: pl.DataFrame) -> None:
        """Add rows of a source.

        Args:
            order: of the source; where several say something, the last one counts.
            codes: of the series.
            rows: with the column `ds`, and those of the values that the source has; with `SAID`, what a source says of
                a time with a higher rank counts, all of it, in the place of what it said before.
        """
        keys = rows["ds"].dt.truncate(_EVERY[self._partition]).to_physical().to_numpy()
        by_key = np.argsort(keys, kind="stable")
        records = np.empty(len(rows), dtype=self._type)
        said = rows[SAID].to_numpy() if SAID in rows.columns else 0
        records["code"], records["us"] = codes.to_numpy(), rows["ds"].to_physical().to_numpy()
        records["order"] = (order << RANK_BITS) + said
        for k, name in enumerate(self._values):
            given = rows[name].cast(pl.Float64).fill_null(np.nan).to_numpy() if name in rows.columns else np.nan
            records[f"value{k}"] = given + 0.0  # there is no negative zero
        self._file.seek(0, 2)
        self._file.write(records[by_key].tobytes())
        starts = np.flatnonzero(np.diff(keys[by_key], prepend=keys[by_key[0]] - 1)).tolist()
        for start, end in zip(starts, [*starts[1:], len(rows)], strict=True):
            self._pieces[int(keys[by_key[start]])].append((self._end + start, end - start))
        self._end += len(rows)

    def __len__(self) -> int:
        return self._end

    def partitions(self) -> list[int]:
        """Return the starts of the stretches that have rows, microseconds since the epoch, in order."""
        return sorted(self._pieces)

    def rows(self, start_us: int) -> pl.DataFrame:
        """Return a partition's rows: `code`, `order`, `us` and the values, null where none was given.

        The order is that of the source, moved by `RANK_BITS`, and below it the rank of `SAID`.
        """
        pieces = [self._read(*piece) for piece in self._pieces[start_us]]
        records = np.concatenate(pieces)
        fields = [pl.Series(name, np.ascontiguousarray(records[name])) for name in ("code", "order", "us")]
        for k, name in enumerate(self._values):
            fields.append(pl.Series(name, np.ascontiguousarray(records[f"value{k}"]), nan_to_null=True))
        return pl.DataFrame(fields)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _read(self, start: int, count: int) -> npt.NDArray[np.void]:
        self._file.seek(start * self._type.itemsize)
        return np.frombuffer(self._file.read(count * self._type.itemsize), dtype=self._type)
