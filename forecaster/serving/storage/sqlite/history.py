"""Observations that left the journal, as Parquet files of a folder: a data set, and still what rows are looked up in.

Their columns are `sequence`, `committed_time`, `unique_id`, `ds`, `y` and one for each covariate, their rows in the
journal's order. A file is written beside, synced and renamed. Small files are merged into larger ones: a file whose
range lies within another's is a leftover and does not count.
"""

import collections
import contextlib
import io
import pathlib
from collections.abc import Collection, Sequence
from typing import Any

import polars as pl

from forecaster.durable_files import UNFINISHED, make_folder, sync_folder, write_durably
from forecaster.errors import DamagedHistoryError, StorageError
from forecaster.serving.storage.history_frames import frame_of
from forecaster.serving.storage.records import Columns
from forecaster.serving.storage.sqlite.history_ledger import Entry, Ledger, digest_of
from forecaster.serving.storage.sqlite.history_reader import SUFFIX, Bounds, HistoryFile, HistoryReader, outermost

_MOST_ROWS_MERGED = 2_000_000  # of one file
_ROW_GROUP = 131_072


class History(HistoryReader):
    """The files of a folder, made with the first one, to be written by one thread. See `HistoryReader`."""

    def repair(self) -> None:
        """Remove unfinished files and merged ones, and let the ledger know the files that are there, durably."""
        files = self._all()
        leftover = {file.path for file in files} - {file.path for file in outermost(files)}
        if self._folder.is_dir():
            leftover |= set(self._folder.glob(f"*{UNFINISHED}"))
        try:
            for path in leftover:
                path.unlink()
            if files:
                sync_folder(self._folder)
        except OSError as error:
            raise StorageError(f"{self._folder}: cannot be tidied up: {error.strerror}; check permissions") from error
        if self._ledger is not None:
            self._take_stock(self._ledger)

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
            try:
                parts.insert(0, self.frame(file))
            except DamagedHistoryError:  # it stays for who restores it
                break
            merged.append(file)
            first = file.first
        whole = pl.concat(parts, how="diagonal")
        make_folder(self._folder)
        self._write(self._folder / f"{first:016d}-{last:016d}{SUFFIX}", (first, last), whole)
        if merged:
            self.repair()

    def erase(self, file: HistoryFile, series_ids: Collection[str]) -> bool:
        """Rewrite a file without some series; return whether there was something to do.

        From a file that cannot be read they are erased as soon as it can be, by `erase_owed`; until then what it has of
        them does not count.
        """
        gone = pl.col("unique_id").is_in(pl.Series(list(series_ids), dtype=pl.String).implode())
        try:
            if self._some(file, gone).is_empty():
                return False
            rest = self.frame(file).filter(~gone)
        except DamagedHistoryError:
            if self._ledger is None:
                raise
            return self._ledger.owe(file.path.name, series_ids)
        self._write(file.path, (file.first, file.last), rest)
        return True

    def erase_owed(self) -> int:
        """Erase from a file that can be read again what it should have been erased from; return how many it were."""
        ledger = self._ledger
        for name in () if ledger is None else ledger.owing():
            for file in self.files():
                if ledger is not None and file.path.name == name and not self.damage(file):
                    self._write(file.path, (file.first, file.last), self.frame(file))
                    ledger.paid(name)
                    return 1
        return 0

    def _take_stock(self, ledger: Ledger) -> None:
        """Let go of entries whose files are in others, note files of before there was a ledger, tell what is gone."""
        there = {file.path.name: file for file in self._all()}
        entries = ledger.entries()[0]
        gone = {file.path.name for file in self.files() if file.is_missing}
        if merged := [e.name for e in entries if e.name not in there and e.name not in gone]:
            ledger.forget(merged)
        for name in {name for name, count in collections.Counter(e.name for e in entries).items() if count > 1}:
            with contextlib.suppress(KeyError, OSError):  # it is gone, or cannot be read: who needs it is told
                digest = digest_of(there[name].path.read_bytes())
                if digest in ledger.digests(name):
                    ledger.settle(name, digest)
        for name in there.keys() - {entry.name for entry in entries}:
            self._adopt(ledger, there[name])
        for file in self.files():
            if file.is_missing:
                self._broken(file, "it is gone")

    def _adopt(self, ledger: Ledger, file: HistoryFile) -> None:
        """Take a file that the ledger does not know as it is."""
        try:
            bounds, data = self.bounds(file), file.path.read_bytes()
        except (DamagedHistoryError, OSError):  # its bounds are not known either: who needs it is told
            bounds, data = Bounds(0, -(2**63), 2**63 - 1), b"damaged"
        ledger.note(_entry(file.path.name, digest_of(data), (file.first, file.last), bounds))

    def _write(self, path: pathlib.Path, span: tuple[int, int], frame: pl.DataFrame) -> None:
        times = frame["ds"].to_physical()
        bounds = Bounds(len(frame), *((times.min(), times.max()) if len(times) else (0, -1)))  # type: ignore[arg-type]
        said = {"rows": str(bounds.rows), "first_us": str(bounds.first_us), "last_us": str(bounds.last_us)}
        how: dict[str, Any] = {"compression": "zstd", "row_group_size": _ROW_GROUP, "metadata": said}
        try:
            whole = io.BytesIO()
            frame.write_parquet(whole, **how)
            digest = digest_of(whole.getvalue())
            entry = _entry(path.name, digest, span, bounds)
            write_durably(path, lambda file: file.write(whole.getbuffer()), lambda: self._note(entry))
            sync_folder(path.parent)
        except (OSError, pl.exceptions.PolarsError) as error:
            path.with_name(path.name + UNFINISHED).unlink(missing_ok=True)
            raise StorageError(f"{path}: cannot be written: {error}; check disk space and permissions") from error
        if self._ledger is not None:
            self._ledger.settle(path.name, digest)

    def _note(self, entry: Entry) -> None:
        if self._ledger is not None:
            self._ledger.note(entry)


def scan(folder: pathlib.Path) -> pl.LazyFrame:
    """Return a folder of history files as one frame, sorted by sequence: null where a covariate was not given."""
    paths = sorted(file.path for file in History(folder).files())
    if not paths:
        return frame_of([]).lazy()
    return pl.concat([pl.scan_parquet(path, glob=False) for path in paths], how="diagonal")


def _entry(name: str, digest: bytes, span: tuple[int, int], bounds: Bounds) -> Entry:
    return Entry(name, digest, *span, bounds.rows, bounds.first_us, bounds.last_us)
