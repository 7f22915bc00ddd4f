"""A server's journal and history as a source of rows, from where the last ingest left off.

Knows exports; knows nothing of how a server writes them.
"""

import dataclasses
import itertools
from collections.abc import Iterator

import polars as pl

from forecaster.config import DataConfig, IngestConfig
from forecaster.data.dataset import canonical_names
from forecaster.data.manifest import Mark
from forecaster.data.report import ROW
from forecaster.errors import StorageError
from forecaster.registry.store_uri import without_password
from forecaster.serving.storage.export import Export, Position
from forecaster.serving.storage.history_frames import AMENDS, column_of
from forecaster.serving.storage.opening import open_export
from pipelines.ingest.series_table import SAID
from pipelines.ingest.source import Checked, asked_of

_SERIES = 65_536  # of one part of static covariates


class StateSource:
    """See `pipelines.ingest.source.Source`.

    Its mark is the last record with observations that was read, by its sequence and the time of its commit. Where that
    record is not there any more (a new journal, a copy put back, a series that was deleted) all of it is read again,
    which finds rows that are known.

    Args:
        ingest: names the state, and says whether rows that nobody can read any more may be missing.
        model: the registered model.
        config: names the covariates.
    """

    def __init__(self, ingest: IngestConfig, model: str, config: DataConfig) -> None:
        state = ingest.state or ""
        self._state, self._model, self._config = state, model, config
        self._accepts_dropped = ingest.accept_dropped
        self.name = f"state {without_password(state)}"
        self.mark: Mark = {}

    def is_unchanged(self, known: Mark) -> bool:
        """Return False: only the journal itself tells, and it is read from the mark on."""
        return False

    def parts(self, known: Mark) -> Iterator[pl.DataFrame]:
        """See `Source.parts`."""
        export = open_export(self._state, self._model)
        try:
            self._check_dropped(export, known)
            after = self._begin(export, known)
            yield from self._observed(export, after.sequence)
            if self.mark.get("sequence") != known.get("sequence"):
                self.mark = {**self.mark, "through": export.through}
            yield from self._attributes(export, after.sequence)
        finally:
            export.close()

    def _check_dropped(self, export: Export, known: Mark) -> None:
        """Raise StorageError if records left without a history that no ingest has read."""
        same = known.get("model") == export.model
        read = int(known.get("through", known.get("sequence", 0))) if same else 0
        if export.dropped > read and not self._accepts_dropped:
            raise StorageError(
                f"{self.name}: records {read + 1} to {export.dropped} left the journal without a history"
                " (serving.history=false) before they were read: let the server keep a history, ingest more often than"
                " every serving.journal_seconds, or go on without their rows by --ingest.accept_dropped true"
            )

    def _begin(self, export: Export, known: Mark) -> Position:
        """Return the position to read from, and note it."""
        found = Position(int(known.get("sequence", 0)), int(known.get("committed_us", 0)))
        self.mark = {"through": known["through"]} if "through" in known else {}
        same = known.get("model") == export.model and known.get("columns") == asked_of(self._config)
        begin = found if same and found.sequence and export.continues(found) else Position(0, 0)
        self._note(export, begin)
        return begin

    def _note(self, export: Export, position: Position) -> None:
        found = {"sequence": position.sequence, "committed_us": position.committed_us}
        read = {"through": self.mark["through"]} if "through" in self.mark else {}
        self.mark = {"model": export.model, **found, "columns": asked_of(self._config), **read}

    def _observed(self, export: Export, after: int) -> Iterator[pl.DataFrame]:
        changing = (*self._config.past_covariates, *self._config.future_covariates)
        named = canonical_names(self._config)
        config = dataclasses.replace(named, static_covariates=(), static_categories=(), end_column=None)
        checked = Checked(self.name, "row", config)
        for frame in export.frames(after):
            if frame.is_empty():
                continue
            given = {name: column_of(name) for name in changing if column_of(name) in frame.columns}
            beside = [
                pl.col(given[name]).alias(name) if name in given else pl.lit(None).alias(name) for name in changing
            ]
            said = [pl.when(AMENDS).then("sequence").otherwise(0).alias(SAID)] if AMENDS in frame.columns else []
            yield checked.part(frame.select(pl.col("sequence").alias(ROW), "unique_id", "ds", "y", *beside, *said))
            last = frame.row(-1, named=True)
            self._note(export, Position(last["sequence"], frame["committed_time"].to_physical()[-1]))

    def _attributes(self, export: Export, after: int) -> Iterator[pl.DataFrame]:
        numbers, categories = self._config.static_covariates, self._config.static_categories
        if not numbers and not categories:
            return
        types = {"unique_id": pl.String, **dict.fromkeys(numbers, pl.Float64), **dict.fromkeys(categories, pl.String)}
        given = (
            (name, *map(said.get, numbers), *map(words.get, categories))
            for name, said, words in export.attributes(after)
        )
        while some := list(itertools.islice(given, _SERIES)):
            yield pl.DataFrame(some, schema=types, orient="row").with_columns(pl.col(numbers).fill_nan(None))
