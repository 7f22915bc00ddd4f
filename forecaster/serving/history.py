"""Observations that left the journal, as Parquet files of a folder: a data set, and still what rows are looked up in.

A file `FIRST-LAST.parquet` holds what the records of these sequences observed, in order, in columns `sequence`,
`committed_time`, `unique_id`, `ds`, `y` and one for each covariate. It is written beside, synced and renamed. Small
files are merged into larger ones: a file whose range lies within another's is a leftover and does not count.

Shapes: N rows, C covariates.
"""

import pathlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from forecaster.durable_files import UNFINISHED, make_folder, sync_folder, write_durably
from forecaster.errors import StorageError
from forecaster.serving.records import Columns

_TIME = pl.Datetime("us", "UTC")
_FIXED = ("sequence", "committed_time", "unique_id", "ds", "y")
_PREFIX = "covariate:"  # of the column of a covariate that has one of these names
_SUFFIX = ".parquet"
_MOST_ROWS_MERGED = 2_000_000  # of one file
_MOST_ROWS_LOOKED_AT = 32_000_000  # for rows that left the journal: about a second
_ROW_GROUP = 131_072


@dataclass(frozen=True, slots=True)
class HistoryFile:
    """One file, and the sequences of the first and the last record that it covers."""

    path: pathlib.Path
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class _Bounds:
    """What a file's metadata say: rows, and the range of their times, microseconds."""

    rows: int
    first_us: int
    last_us: int


class History:
    """The files of a folder. One thread writes; others may read at the same time.

    Args:
        folder: made with the first file.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._bounds: dict[str, tuple[int, _Bounds]] = {}  # by name, with the inode: another one if it was rewritten

    def files(self) -> list[HistoryFile]:
        """Return the files that count, in order."""
        return _outermost(self._all())

    def repair(self) -> None:
        """Remove unfinished files and merged ones; what is left survives a power cut."""
        files = self._all()
        leftover = {file.path for file in files} - {file.path for file in _outermost(files)}
        if self._folder.is_dir():
            leftover |= set(self._folder.glob(f"*{UNFINISHED}"))
        try:
            for path in leftover:
                path.unlink()
            if files:
                sync_folder(self._folder)
        except OSError as error:
            raise StorageError(f"{self._folder}: cannot be tidied up: {error.strerror}; check permissions") from error

    def append(self, first: int, last: int, records: Sequence[tuple[int, int, Columns]]) -> None:
        """Add what the records from sequence `first` to `last` observed, durably.

        Args:
            first: behind all files' last.
            last: of the records.
            records: sequence, time of its commit in microseconds, and rows.
        """
        parts, merged = [frame_of(records)], []
        for file in reversed(self.files()):
            rows = self.bounds(file).rows
            total = sum(len(part) for part in parts)
            # Only what is not much larger: each row is then written a few times in all.
            if rows > 2 * total or rows + total > _MOST_ROWS_MERGED or file.last + 1 != first:
                break
            parts.insert(0, self.frame(file))
            merged.append(file)
            first = file.first
        whole = pl.concat(parts, how="diagonal")
        make_folder(self._folder)
        self._write(self._folder / f"{first:016d}-{last:016d}{_SUFFIX}", whole)
        if merged:
            self.repair()

    def read(self, file: HistoryFile, after: int) -> Iterator[tuple[int, Columns]]:
        """Yield a file's records behind sequence `after`: what is missing of covariates is NaN.

        Raises FileNotFoundError, before the first one, if it was merged into another since it was listed.
        """
        frame = self.frame(file).filter(pl.col("sequence") > after)
        sequences = frame["sequence"].to_numpy()
        names = frame["unique_id"].unique(maintain_order=True)
        codes = frame["unique_id"].cast(pl.Enum(names)).to_physical().to_numpy().astype(np.int64)
        ids, beside = names.to_list(), [c for c in frame.columns if c not in _FIXED]
        time_us, values = frame["ds"].to_physical().to_numpy(), frame["y"].to_numpy()
        covariates = frame.select(beside).cast(pl.Float64).to_numpy() if beside else None
        starts = np.flatnonzero(np.diff(sequences, prepend=-1)).tolist()
        for start, end in zip(starts, [*starts[1:], len(sequences)], strict=False):
            used, series = np.unique(codes[start:end], return_inverse=True)
            record = Columns(
                tuple(ids[k] for k in used.tolist()),
                series.astype(np.int32),
                time_us[start:end],
                values[start:end],
                tuple(_name(column) for column in beside),
                None if covariates is None else covariates[start:end],
            )
            yield int(sequences[start]), record

    def newest_first(self, wanted: Columns) -> Iterator[Columns]:
        """Yield the rows among which those of certain series and times are, the newest first."""
        times, ids = np.unique(wanted.time_us), pl.Series(wanted.series_ids, dtype=pl.String).implode()
        looked_at, files = 0, self.files()
        while files:
            file = files.pop()
            try:
                bounds = self.bounds(file)
                start, end = np.searchsorted(times, [bounds.first_us, bounds.last_us + 1])
                if start == end:
                    continue
                between = pl.col("ds").to_physical().is_between(int(times[start]), int(times[end - 1]))
                found = self._collect(file, between & pl.col("unique_id").is_in(ids))
            except FileNotFoundError:  # merged into a larger one meanwhile
                files = [other for other in self.files() if other.first <= file.last]
                continue
            if len(found):
                names = found["unique_id"].unique(maintain_order=True)
                series = found["unique_id"].cast(pl.Enum(names)).to_physical().to_numpy().astype(np.int32)
                rows = (series, found["ds"].to_physical().to_numpy(), found["y"].to_numpy())
                yield Columns(tuple(names.to_list()), *rows)
            looked_at += bounds.rows
            if looked_at > _MOST_ROWS_LOOKED_AT:
                return

    def erase(self, file: HistoryFile, series_ids: Collection[str]) -> bool:
        """Rewrite a file without some series; return whether it had any of them."""
        names = pl.Series(list(series_ids), dtype=pl.String).implode()
        gone = pl.col("unique_id").is_in(names)
        if self._collect(file, gone, first_rows=1).is_empty():
            return False
        self._write(file.path, self.frame(file).filter(~gone))
        return True

    def frame(self, file: HistoryFile) -> pl.DataFrame:
        """Return all of a file."""
        return self._collect(file, pl.lit(True), columns=None)

    def bounds(self, file: HistoryFile) -> _Bounds:
        """Return what a file's metadata say."""
        try:
            inode = file.path.stat().st_ino
            known = self._bounds.get(file.path.name)
            if known is None or known[0] != inode:
                self._forget()
                said = pl.read_parquet_metadata(file.path)
                known = inode, _Bounds(int(said["rows"]), int(said["first_us"]), int(said["last_us"]))
                self._bounds[file.path.name] = known
        except FileNotFoundError:
            raise
        except (OSError, pl.exceptions.PolarsError, KeyError, ValueError) as error:
            raise _corrupted(file.path, error) from error
        return known[1]

    def _forget(self) -> None:
        """Forget what the metadata of files that are gone said."""
        names = {file.path.name for file in self._all()}
        for name in self._bounds.keys() - names:
            self._bounds.pop(name, None)  # readers look at other files meanwhile

    def _all(self) -> list[HistoryFile]:
        found = []
        for path in self._folder.glob(f"*-*{_SUFFIX}"):
            first, _, last = path.name.removesuffix(_SUFFIX).partition("-")
            if first.isdecimal() and last.isdecimal():
                found.append(HistoryFile(path, int(first), int(last)))
        return found

    def _collect(
        self,
        file: HistoryFile,
        which: pl.Expr,
        *,
        columns: Sequence[str] | None = ("unique_id", "ds", "y"),
        first_rows: int | None = None,
    ) -> pl.DataFrame:
        try:
            lazy = pl.scan_parquet(file.path, glob=False).filter(which)
            lazy = lazy if columns is None else lazy.select(columns)
            return (lazy if first_rows is None else lazy.head(first_rows)).collect()
        except FileNotFoundError:
            raise
        except (OSError, pl.exceptions.PolarsError) as error:
            raise _corrupted(file.path, error) from error

    def _write(self, path: pathlib.Path, frame: pl.DataFrame) -> None:
        times = frame["ds"].to_physical()
        first_us, last_us = (times.min(), times.max()) if len(times) else (0, -1)
        said = {"rows": str(len(frame)), "first_us": str(first_us), "last_us": str(last_us)}
        how: dict[str, Any] = {"compression": "zstd", "row_group_size": _ROW_GROUP, "metadata": said}
        try:
            write_durably(path, lambda file: frame.write_parquet(file, **how))
            sync_folder(path.parent)
        except (OSError, pl.exceptions.PolarsError) as error:
            path.with_name(path.name + UNFINISHED).unlink(missing_ok=True)
            raise StorageError(f"{path}: cannot be written: {error}; check disk space and permissions") from error


def scan(folder: pathlib.Path) -> pl.LazyFrame:
    """Return a folder of history files as one frame, sorted by sequence: null where a covariate was not given."""
    paths = sorted(file.path for file in History(folder).files())
    if not paths:
        return frame_of([]).lazy()
    return pl.concat([pl.scan_parquet(path, glob=False) for path in paths], how="diagonal")


def frame_of(records: Sequence[tuple[int, int, Columns]]) -> pl.DataFrame:
    """Return records (sequence, time of the commit in microseconds, rows) as the columns of a file."""
    counts = [len(columns) for *_, columns in records]
    index: dict[str, int] = {}
    codes = [
        np.array([index.setdefault(name, len(index)) for name in columns.series_ids], dtype=np.int64)[columns.series]
        for *_, columns in records
    ]
    repeated = np.repeat(np.array([record[:2] for record in records], dtype=np.int64).reshape(-1, 2), counts, axis=0)
    none = np.zeros(0, dtype=np.int64)
    series: dict[str, pl.Series] = {
        "sequence": pl.Series(repeated[:, 0], dtype=pl.Int64),
        "committed_time": pl.Series(repeated[:, 1], dtype=pl.Int64).cast(_TIME),
        "unique_id": pl.Series(list(index), dtype=pl.String).gather(np.concatenate([none, *codes])),
        "ds": pl.Series(np.concatenate([none, *(c.time_us for *_, c in records)]), dtype=pl.Int64).cast(_TIME),
        "y": _floats([columns.values for *_, columns in records]),
    }
    for name in dict.fromkeys(name for *_, columns in records for name in columns.covariate_names):
        series[column_of(name)] = _floats([_covariate(columns, name) for *_, columns in records])
    return pl.DataFrame(series)


def _covariate(columns: Columns, name: str) -> npt.NDArray[np.float64]:
    if columns.covariates is None or name not in columns.covariate_names:
        return np.full(len(columns), np.nan)
    return columns.covariates[:, columns.covariate_names.index(name)]


def _floats(parts: Sequence[npt.NDArray[np.float64]]) -> pl.Series:
    """Return them as one series, null where they are NaN."""
    return pl.Series(np.concatenate([np.zeros(0), *parts]), dtype=pl.Float64, nan_to_null=True)


def column_of(name: str) -> str:
    """Return what the column of a covariate is called."""
    return _PREFIX + name if name in _FIXED or name.startswith(_PREFIX) else name


def _name(column: str) -> str:
    return column.removeprefix(_PREFIX)


def _outermost(files: Sequence[HistoryFile]) -> list[HistoryFile]:
    """Return, in order, the files whose range is not within another's."""
    kept: list[HistoryFile] = []
    for file in sorted(files, key=lambda file: (file.first, -file.last)):
        if not kept or file.last > kept[-1].last:
            kept.append(file)
    return kept


def _corrupted(path: pathlib.Path, error: Exception) -> StorageError:
    return StorageError(f"{path}: cannot be read ({error}): restore the file from a copy")
