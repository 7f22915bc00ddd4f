"""The step `ingest`: from the configured sources to a validated data set, of which only what is new is written.

One pass reads the sources in parts and splits them by time; then each partition that got something is merged and, if
it says something else than before, written beside the old file. The manifest is replaced last, and what it no longer
lists is removed: killed at any moment, the data set is the one from before or the new one.

Knows the order of the work; how sources are read, rows split and partitions merged stands in modules of its own.
"""

import collections
import contextlib
import dataclasses
import datetime as dt
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import polars as pl

from forecaster.config import Config, parse_frequency
from forecaster.data.manifest import Changes, DataFile, Extent, Manifest, Mark, Role, SeriesFile, manifest_at
from forecaster.data.report import EXAMPLES, Finding, raise_for_errors
from forecaster.data.windows import too_large
from forecaster.data.wording import time_text
from forecaster.errors import DataError
from pipelines.ingest.folder import SCRATCH, owned, tidy
from pipelines.ingest.merging import Merger
from pipelines.ingest.partitions import Partitions
from pipelines.ingest.precedence import Precedence
from pipelines.ingest.series_table import KNOWN, SeriesTable
from pipelines.ingest.source import Source
from pipelines.ingest.sources import find_sources
from pipelines.ingest.splitting import Split, label

_STATIC: dict[str, pl.DataType] = {"static": pl.Float64(), "category": pl.String()}
_FIXED: dict[str, Role] = {"unique_id": "id", "ds": "time", "y": "target"}
_CHANGING = ("past", "future")


@dataclass(frozen=True, slots=True)
class IngestResult:
    """What an ingest did.

    Args:
        manifest: of the data set as it is now.
        changes: what the sources brought, in rows.
        has_changed: whether the data set says something else than before.
    """

    manifest: Manifest
    changes: Changes
    has_changed: bool

    def line(self) -> str:
        """Return it for people, one line."""
        changes, manifest = self.changes, self.manifest
        rule = "other values not taken" if manifest.corrections == "keep" else "corrected"
        told = [f"{changes.new:,} new {'row' if changes.new == 1 else 'rows'}"]
        told += [f"{changes.completed:,} completed"] if changes.completed else []
        told += [f"{changes.corrected:,} {rule}"] if changes.corrected else []
        told += [f"{changes.known:,} known already"] if changes.known else []
        told += [f"static covariates of {changes.series:,} series {rule}"] if changes.series else []
        extent = f"{time_text(manifest.first)} to {time_text(manifest.last)}"
        size = f"{manifest.rows:,} rows of {manifest.series:,} series, {extent}"
        told = told if changes != Changes() else ["nothing new"]
        return f"{', '.join(told)}; data set: {size} (hash {manifest.content_hash[:12]})"


def ingest(config: Config, stream: TextIO | None = None) -> IngestResult:
    """Bring what is new of the configured sources into the data set; calling it again is safe.

    Args:
        config: its data and ingest sections, and the registered model's name for a server's state.
        stream: told if another ingest has to be waited for.

    Raises:
        DataError: a source is not what it should be; the data set is then as it was.
        StorageError: a server's state cannot be read.
    """
    folder = Path(config.ingest.output).expanduser()
    try:
        with owned(folder, stream):
            return _Ingest(config, folder).run(find_sources(config))
    except OSError as error:
        raise DataError(f"{folder} cannot be brought up to date: {error}; check disk space and permissions") from error


class _Ingest:
    """One ingest into a folder that nobody else writes meanwhile."""

    def __init__(self, config: Config, folder: Path) -> None:
        self._config, self._folder = config, folder
        path = manifest_at(folder)
        self._known = None if path is None else Manifest.read(path)
        self._columns = _columns(config, self._known)
        tidy(folder)

    def run(self, sources: Sequence[Source]) -> IngestResult:
        """Read the sources that may have changed, and write what is new."""
        try:
            return self._run(sources)
        finally:
            tidy(self._folder)

    def _run(self, sources: Sequence[Source]) -> IngestResult:
        (self._folder / SCRATCH).mkdir()
        values = ["y", *(name for name, role in self._columns.items() if role in (*_CHANGING, "end"))]
        split = Split(self._folder / SCRATCH / "rows", self._config.ingest.partition, values)
        with contextlib.closing(split):
            reading = _Reading(self._series_table(), split)
            precedence = self._precedence(sources)
            marks = self._known.sources if self._known is not None else {}
            for order, source in enumerate(sources, start=KNOWN + 1):
                mark = {} if precedence.again(source.name) else marks.get(source.name, {})
                for part in () if source.is_unchanged(mark) else source.parts(mark):
                    reading.take(order, part)
                    precedence.note(source.name, part)
            raise_for_errors(reading.findings())
            marks = {source.name: source.mark for source in sources}
            return self._written(reading, values, marks, precedence.extents)

    def _precedence(self, sources: Sequence[Source]) -> Precedence:
        return Precedence(
            self._known,
            [source.name for source in sources],
            replaces=self._config.ingest.corrections == "replace",
            timeless=any(role in _STATIC for role in self._columns.values()),
        )

    def _series_table(self) -> SeriesTable:
        static = {name: _STATIC[role] for name, role in self._columns.items() if role in _STATIC}
        path = None if self._known is None else self._folder / self._known.series_file.name
        return SeriesTable(self._config.data.step_us, static, path)

    def _written(
        self,
        reading: "_Reading",
        values: Sequence[str],
        marks: Mapping[str, Mark],
        extents: Mapping[str, Extent],
    ) -> IngestResult:
        """Write the partitions that have changed, then the manifest."""
        ends = {name for name, role in self._columns.items() if role == "end"}
        partitions = Partitions(self._folder, self._known, reading.table, values, ends)
        merger = Merger(reading.table.names, values, self._config.ingest.corrections)
        for start_us in reading.split.partitions():
            name = label(start_us, self._config.ingest.partition)
            merged = partitions.sorted(merger.merge(partitions.with_known(name, reading.split.rows(start_us))))
            if self._known is None:
                merger.note_steps(merged)
            partitions.write(name, merged)
        raise_for_errors(merger.findings(self._config.data.step_us))
        merger.refuse_corrections()
        table, corrected = reading.table.finish(self._config.ingest.corrections)
        changes = dataclasses.replace(merger.changes, series=corrected)
        made = self._manifest(list(partitions.files()), table, partitions.write_series(table), changes)
        manifest = dataclasses.replace(made, sources=marks, extents=extents)
        known = self._known
        if known is not None and _same(known, manifest):
            return IngestResult(known, changes, has_changed=False)
        manifest.write(self._folder)
        return IngestResult(manifest, changes, known is None or known.content_hash != manifest.content_hash)

    def _manifest(
        self,
        files: list[DataFile],
        table: pl.DataFrame,
        series_file: SeriesFile,
        changes: Changes,
    ) -> Manifest:
        if not files:
            raise DataError("no source has any rows: there is nothing to make a data set of")
        data, ingest = self._config.data, self._config.ingest
        digests = [[file.partition, file.digest] for file in files]
        content = json.dumps([data.step_us, digests, series_file.digest])
        return Manifest(
            frequency=data.frequency,
            partition=ingest.partition,
            columns=self._columns,
            rows=sum(file.rows for file in files),
            series=len(table) - table["phase_us"].null_count(),
            first=min(file.first for file in files),
            last=max(file.last for file in files),
            content_hash=hashlib.blake2b(content.encode(), digest_size=32).hexdigest(),
            files=tuple(files),
            series_file=series_file,
            made_at=dt.datetime.now(dt.UTC),
            changes=changes,
            corrections=ingest.corrections,
        )


class _Reading:
    """Takes the parts of all sources, and notes what is wrong with them."""

    def __init__(self, table: SeriesTable, split: Split) -> None:
        self.table, self.split = table, split
        self._wrong: collections.Counter[tuple[str, str]] = collections.Counter()  # by column and kind
        self._examples: dict[tuple[str, str], list[str]] = collections.defaultdict(list)

    def take(self, order: int, part: pl.DataFrame) -> None:
        """Take a part of a source: rows with their static covariates, or only the latter."""
        codes = self.table.codes(part["unique_id"])
        static = self.table.static
        if not static.keys().isdisjoint(part.columns):
            missing = [pl.lit(None, kind).alias(name) for name, kind in static.items() if name not in part.columns]
            self.table.note_static(order, codes, part.with_columns(missing))
        if "ds" not in part.columns:
            return
        numbers = [name for name, kind in part.schema.items() if kind == pl.Float64]
        for name in numbers:
            for kind, is_wrong in (("infinite", pl.col(name).is_infinite()), ("too_large", too_large(pl.col(name)))):
                wrong, examples = part.filter(is_wrong), self._examples[name, kind]
                self._wrong[name, kind] += len(wrong)
                for series, time in wrong.head(EXAMPLES - len(examples)).select("unique_id", "ds").iter_rows():
                    examples.append(f"{series} at {time_text(time)}")
        self.table.note_times(codes, part["ds"].to_physical())
        self.split.add(order, codes, part)

    def findings(self) -> list[Finding]:
        """Return what is wrong with what was taken."""
        found = [self.table.off_grid()]
        for (name, kind), count in self._wrong.items():
            of, detail = (kind, "") if name == "y" else (f"{kind}_covariate", name)
            found += [Finding(of, "error", count, tuple(self._examples[name, kind]), detail)] if count else []
        return [finding for finding in found if finding is not None]


def _columns(config: Config, known: Manifest | None) -> dict[str, Role]:
    """Return what each column of the data set is: those that it has, and the configured ones.

    Raises DataError if the configuration contradicts the data set.
    """
    data = config.data
    named: tuple[tuple[Role, Sequence[str]], ...] = (
        ("past", data.past_covariates),
        ("future", data.future_covariates),
        ("static", data.static_covariates),
        ("category", data.static_categories),
        ("end", [data.end_column] if data.end_column is not None else []),
    )
    wanted: dict[str, Role] = {name: role for role, names in named for name in names}
    if taken := sorted(wanted.keys() & _FIXED):
        raise DataError(f"a covariate called {taken[0]!r} cannot be kept in a data set: rename it")
    if known is None:
        return _FIXED | wanted
    place = config.ingest.output
    if parse_frequency(known.frequency) != data.step_us:
        raise DataError(f"{place} is a data set of {known.frequency}: set data.frequency, or another ingest.output")
    if known.partition != config.ingest.partition:
        raise DataError(
            f"{place} has a file for each {known.partition}: set ingest.partition, or another ingest.output"
        )
    for name in wanted.keys() & known.columns.keys():
        was, role = known.columns[name], wanted[name]
        if was != role and not {was, role} <= {*_CHANGING}:
            raise DataError(f"{name!r} is of the kind {was!r} in {place}, not {role!r}: choose another ingest.output")
    return {**known.columns, **wanted}


def _same(known: Manifest, found: Manifest) -> bool:
    """Return whether two manifests differ in nothing that is worth writing."""
    return dataclasses.replace(found, made_at=known.made_at, changes=known.changes) == known
