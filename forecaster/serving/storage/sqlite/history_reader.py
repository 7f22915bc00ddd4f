"""The Parquet files of a history, read: which there are, what is in them, and whether they are what was written.

A file `FIRST-LAST.parquet` holds what the records of these sequences observed. Each one's digest stands in a ledger;
one that was changed or is gone raises DamagedHistoryError where it is needed, and is not read again until it changes.
Others may write at the same time: a file that was merged into another raises FileNotFoundError, and is then looked for
again.

Shapes: N rows.
"""

import io
import logging
import os
import pathlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from forecaster.errors import DamagedHistoryError
from forecaster.serving.storage.history_frames import column_of, records_in, rows_in
from forecaster.serving.storage.records import Columns
from forecaster.serving.storage.sqlite.history_ledger import Ledger, digest_of
from forecaster.serving.storage.words import Dated

_LOG = logging.getLogger(__name__)
SUFFIX = ".parquet"
_MOST_ROWS_LOOKED_AT = 32_000_000  # for rows that left the journal: about a second
_PARTS = ["unique_id", "ds", "y", "committed_time"]
_Signature = tuple[int, int, int]  # inode, time of the last change, size: others if a file was changed or replaced


@dataclass(frozen=True, slots=True)
class Bounds:
    """What is known of a file without reading it: rows, and the range of their times, microseconds."""

    rows: int
    first_us: int
    last_us: int


@dataclass(frozen=True, slots=True)
class HistoryFile:
    """One file, the sequences of the first and the last record that it covers, and whether it is gone."""

    path: pathlib.Path
    first: int
    last: int
    bounds: Bounds | None = None
    is_missing: bool = False


class HistoryReader:
    """The files of a folder, for one thread.

    Args:
        folder: need not be there.
        ledger: of digests; None to check none.
        damaged: filled with what is wrong with files, by their names; shared by all who read the folder.
    """

    def __init__(
        self, folder: pathlib.Path, ledger: Ledger | None = None, damaged: dict[str, str] | None = None
    ) -> None:
        self._folder, self._ledger = folder, ledger
        self._damaged = {} if damaged is None else damaged
        self._bounds: dict[str, tuple[int, Bounds]] = {}  # by name, with the inode: another one if it was rewritten
        self._checked: dict[str, tuple[_Signature, str]] = {}  # by name: what is wrong with it, empty if nothing is

    def files(self) -> list[HistoryFile]:
        """Return the files that count, in order; with a ledger those too that should be there and are not."""
        entries, pruned = ([], 0) if self._ledger is None else self._ledger.entries()  # before the folder is looked at
        known = {entry.name: Bounds(entry.rows, entry.first_us, entry.last_us) for entry in entries}
        found = [HistoryFile(f.path, f.first, f.last, known.get(f.path.name)) for f in outermost(self._all())]
        missing = []
        for entry in entries:
            # What is not pruned is in the journal: a file of it may be about to be written.
            if not covers(found, entry.first, min(entry.last, pruned)):
                path = self._folder / entry.name
                missing.append(HistoryFile(path, entry.first, entry.last, known[entry.name], is_missing=True))
        return outermost([*found, *missing])

    def read(self, file: HistoryFile, after: int) -> Iterator[tuple[int, Columns]]:
        """Yield a file's records behind sequence `after`: what is missing of covariates is NaN.

        Raises, before the first one, FileNotFoundError if it was merged into another since it was listed, and
        DamagedHistoryError.
        """
        yield from records_in(self.frame(file).filter(pl.col("sequence") > after))

    def newest_first(self, wanted: Columns) -> Iterator[Dated]:
        """Yield the rows among which those of certain series and times are, the newest files first.

        Raises DamagedHistoryError where they may be in a file that cannot be read.
        """
        times, ids = np.unique(wanted.time_us), pl.Series(wanted.series_ids, dtype=pl.String).implode()
        beside = [column_of(name) for name in wanted.covariate_names]
        looked_at, files = 0, self.files()
        while files:
            file = files.pop()
            try:
                bounds = self.bounds(file)
                start, end = np.searchsorted(times, [bounds.first_us, bounds.last_us + 1])
                if start == end:
                    continue
                between = pl.col("ds").to_physical().is_between(int(times[start]), int(times[end - 1]))
                found = self._some(file, between & pl.col("unique_id").is_in(ids), beside)
            except FileNotFoundError:  # merged into a larger one meanwhile
                files = [other for other in self.files() if other.first <= file.last]
                continue
            if len(found):
                yield rows_in(found)
            looked_at += bounds.rows
            if looked_at > _MOST_ROWS_LOOKED_AT:
                yield 0, None
                return

    def frame(self, file: HistoryFile) -> pl.DataFrame:
        """Return all of a file; raises FileNotFoundError and DamagedHistoryError as `read` does."""
        if wrong := self._verdict(file):
            raise self._broken(file, wrong)
        data = self._bytes(file)
        try:
            return self._without_owed(file, pl.read_parquet(io.BytesIO(data)).lazy()).collect()
        except pl.exceptions.PolarsError as error:
            raise self._broken(file, str(error)) from error

    def damage(self, file: HistoryFile) -> str:
        """Return what is wrong with a file, empty if nothing is; raises FileNotFoundError as `read` does."""
        try:
            self._check(file)
        except DamagedHistoryError as error:
            return str(error)
        return ""

    def bounds(self, file: HistoryFile) -> Bounds:
        """Return what is known of a file without reading it."""
        if file.bounds is not None:
            return file.bounds
        try:
            inode = file.path.stat().st_ino
            known = self._bounds.get(file.path.name)
            if known is None or known[0] != inode:
                self._forget()
                said = pl.read_parquet_metadata(file.path)
                known = inode, Bounds(int(said["rows"]), int(said["first_us"]), int(said["last_us"]))
                self._bounds[file.path.name] = known
        except FileNotFoundError:
            raise
        except (OSError, pl.exceptions.PolarsError, KeyError, ValueError) as error:
            raise self._broken(file, str(error)) from error
        return known[1]

    def _some(self, file: HistoryFile, which: pl.Expr, covariates: Sequence[str] = ()) -> pl.DataFrame:
        """Return some rows of a file, with those of some covariates that it has.

        It is read whole only to be checked, once.
        """
        while True:
            self._check(file)
            before = _signature(file.path.stat())
            try:
                scanned = pl.scan_parquet(file.path, glob=False).filter(which)
                held = set(scanned.collect_schema().names()) if covariates else set[str]()
                parts = [*_PARTS, *(name for name in covariates if name in held)]
                found = self._without_owed(file, scanned).select(parts).collect()
            except FileNotFoundError:
                raise
            except (OSError, pl.exceptions.PolarsError) as error:
                if _signature(file.path.stat()) == before:
                    raise self._broken(file, str(error)) from error
                continue
            # A scan opens the file more than once: rewritten meanwhile, it is read anew.
            if _signature(file.path.stat()) == before:
                return found

    def _without_owed(self, file: HistoryFile, frame: pl.LazyFrame) -> pl.LazyFrame:
        owed = [] if self._ledger is None else self._ledger.owed(file.path.name)
        return frame.filter(~pl.col("unique_id").is_in(pl.Series(owed, dtype=pl.String).implode())) if owed else frame

    def _check(self, file: HistoryFile) -> None:
        """Raise what `_bytes` raises; a file that has not changed is read for it once."""
        wrong = self._verdict(file)
        if wrong is None:
            self._bytes(file)
        elif wrong:
            raise self._broken(file, wrong)

    def _verdict(self, file: HistoryFile) -> str | None:
        """Return what was found wrong with a file as it is now, empty if nothing was, None if it was not read yet."""
        if file.is_missing:
            return "it is gone"
        signature, wrong = self._checked.get(file.path.name, (None, None))
        return wrong if signature == _signature(file.path.stat()) else None

    def _bytes(self, file: HistoryFile) -> bytes:
        """Return a file's bytes, as they were written."""
        name = file.path.name
        while True:
            try:
                with file.path.open("rb") as opened:
                    data, signature = opened.read(), _signature(os.fstat(opened.fileno()))
                is_whole = self._ledger is None or digest_of(data) in self._ledger.digests(name)
                if not is_whole and _signature(file.path.stat()) != signature:
                    continue  # it was rewritten between the two looks
            except FileNotFoundError:
                raise
            except OSError as error:
                raise self._broken(file, error.strerror or str(error)) from error
            self._forget()
            self._checked[name] = signature, "" if is_whole else "it is not what was written"
            if not is_whole:
                raise self._broken(file, self._checked[name][1])
            self._damaged.pop(name, None)
            return data

    def _broken(self, file: HistoryFile, why: str) -> DamagedHistoryError:
        name, last_us = file.path.name, 2**63 - 1 if file.bounds is None else file.bounds.last_us
        error = DamagedHistoryError(f"{file.path}: cannot be read ({why}): restore the file from a copy", why, last_us)
        if self._damaged.get(name) != str(error):
            self._damaged[name] = str(error)
            _LOG.error("%s; series that need it are refused or begin from what is left, others go on", error)
        return error

    def _forget(self) -> None:
        """Forget what was known of files that are gone."""
        names = {file.path.name for file in self._all()}
        for known in (self._bounds, self._checked):
            for name in known.keys() - names:
                known.pop(name, None)  # readers look at other files meanwhile

    def _all(self) -> list[HistoryFile]:
        found = []
        for path in self._folder.glob(f"*-*{SUFFIX}"):
            first, _, last = path.name.removesuffix(SUFFIX).partition("-")
            if first.isdecimal() and last.isdecimal():
                found.append(HistoryFile(path, int(first), int(last)))
        return found


def _signature(found: os.stat_result) -> _Signature:
    return found.st_ino, found.st_mtime_ns, found.st_size


def outermost(files: Sequence[HistoryFile]) -> list[HistoryFile]:
    """Return, in order, the files whose range is not within another's."""
    kept: list[HistoryFile] = []
    for file in sorted(files, key=lambda file: (file.first, -file.last)):
        if not kept or file.last > kept[-1].last:
            kept.append(file)
    return kept


def covers(files: Sequence[HistoryFile], first: int, last: int) -> bool:
    """Return whether files, in order, hold every record from one to another."""
    for file in files:
        if file.first <= first <= file.last:
            first = file.last + 1
    return first > last
