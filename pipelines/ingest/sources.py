"""Where rows come from: files, object stores, a database, a server's state; each in parts that fit into memory.

A part is a canonical frame: `unique_id`, `ds`, `y` and what the configuration names beside them, or only `unique_id`
and static covariates. It is checked as `forecaster.data` checks what it reads.

Knows nothing of data sets.
"""

import glob
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from forecaster.config import Config, DataConfig
from forecaster.data.csv_file import first_line, header_of, mistake_in
from forecaster.data.datasets import weather_path
from forecaster.data.files import find_files, kind_of
from forecaster.data.manifest import Mark, manifest_at
from forecaster.data.report import ROW
from forecaster.data.schema import require_columns
from forecaster.data.wide import is_wide
from forecaster.errors import DataError
from forecaster.registry.store_uri import without_password, without_secrets
from pipelines.ingest.source import Checked, Source, asked_of
from pipelines.ingest.state_source import StateSource

_ROWS = 262_144  # of one part


def find_sources(config: Config) -> list[Source]:
    """Return the configured sources, in the order in which they count; raises DataError if a file is not there."""
    ingest = config.ingest
    found: dict[str, Source] = {}  # by what they are, not by names: two URLs may differ in what these do not show
    paths = ingest.sources
    if not paths and ingest.sql_url is None and ingest.state is None:
        paths = (config.data.path or str(weather_path()),)
    for path in paths:
        if "://" in path and not path.startswith("file://"):
            found[path] = _Remote(path, config.data)
            continue
        local = path.removeprefix("file://")
        setting = "ingest.sources" if ingest.sources else "data.path"
        if manifest_at(local) is not None:
            raise DataError(f"{setting}={path!r} is a data set already: name what it is to be made of")
        files = [_File(file, config.data) for file in find_files(local, setting)]
        found |= {file.name: file for file in files}
    if ingest.sql_url is not None and ingest.sql_query is not None:
        found["query"] = _Query(ingest.sql_url, ingest.sql_query, config.data)
    if ingest.state is not None:
        found["state"] = StateSource(ingest, config.tracking.model, config.data)
    return list(found.values())


class _File:
    """A CSV or Parquet file; it has changed if its size, its time of change or its inode has."""

    def __init__(self, path: Path, config: DataConfig) -> None:
        self._path, self._config = path, config
        self.name = str(path.absolute())
        status = path.stat()  # before it is read: what is written meanwhile is seen the next time
        said = {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "inode": status.st_ino}
        self.mark: Mark = {**said, "columns": asked_of(config)}

    def is_unchanged(self, known: Mark) -> bool:
        return dict(known) == self.mark

    def parts(self, known: Mark) -> Iterator[pl.DataFrame]:
        if kind_of(self._path) == "parquet":
            return _parquet_parts(str(self._path), self._config)
        header = header_of(self._path)
        mistake: Callable[[Exception], str] = lambda error: mistake_in(self._path, len(header), error)  # noqa: E731
        return _csv_parts(str(self._path), header, self._config, mistake)


class _Remote:
    """A file of an object store, or a glob of them, which Polars reads; what has changed cannot be told."""

    def __init__(self, url: str, config: DataConfig) -> None:
        self.name, self._url, self._config = without_password(url), url, config
        self.mark: Mark = {}

    def is_unchanged(self, known: Mark) -> bool:
        return False

    def parts(self, known: Mark) -> Iterator[pl.DataFrame]:
        is_glob = glob.has_magic(self._url)
        if kind_of(self._url) == "parquet":
            return _parquet_parts(self._url, self._config, is_glob=is_glob)
        try:
            header = pl.scan_csv(self._url, infer_schema=False).collect_schema().names()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise DataError(f"{self.name} cannot be read as CSV: {first_line(error)}") from error
        mistake: Callable[[Exception], str] = lambda error: f"{self.name} cannot be read: {first_line(error)}"  # noqa: E731
        return _csv_parts(self._url, header, self._config, mistake, is_glob=is_glob)


class _Query:
    """What a database answers to a query; it is asked every time, and may have nothing to say."""

    def __init__(self, url: str, query: str, config: DataConfig) -> None:
        self._url, self._query, self._config = url, query, config
        self.name = f"{without_password(url)} {query}"
        self._label = without_password(url)
        self.mark: Mark = {}

    def is_unchanged(self, known: Mark) -> bool:
        return False

    def parts(self, known: Mark) -> Iterator[pl.DataFrame]:
        checked, first = Checked(f"{self._label}: the answer", "row", self._config), 1
        for names, rows in self._answers():
            if first == 1:
                require_columns(names, self._config, f"{self._label}: the answer")
            try:
                frame = pl.DataFrame(rows, schema=list(names), orient="row", infer_schema_length=None)
            except (TypeError, pl.exceptions.PolarsError) as error:
                raise DataError(f"{self._label}: the answer mixes types: {first_line(error)}") from error
            if len(frame):
                yield checked.part(frame.with_row_index(ROW, offset=first))
            first += len(frame)

    def _answers(self) -> Iterator[tuple[Sequence[str], Sequence[Any]]]:
        """Yield the names of the columns, and some rows; the server's cursor holds the rest."""
        import sqlalchemy
        from sqlalchemy.exc import SQLAlchemyError

        try:
            engine = sqlalchemy.create_engine(self._url)
        except (SQLAlchemyError, ImportError) as error:
            said = without_secrets(first_line(error), self._url)
            raise DataError(f"ingest.sql_url: {self._label} cannot be used: {said}") from error
        try:
            with engine.connect().execution_options(stream_results=True, yield_per=_ROWS) as connection:
                answer = connection.execute(sqlalchemy.text(self._query))
                names = list(answer.keys())
                for rows in answer.partitions():
                    yield names, [tuple(row) for row in rows]
        except SQLAlchemyError as error:
            said = without_secrets(first_line(error), self._url)
            raise DataError(f"{self._label}: the query failed: {said}") from error
        finally:
            engine.dispose()


def _parquet_parts(path: str, config: DataConfig, *, is_glob: bool = False) -> Iterator[pl.DataFrame]:
    shown = without_password(path)
    try:
        lazy = pl.scan_parquet(path, glob=is_glob, hive_partitioning=False)
        names = lazy.collect_schema().names()
        require_columns(names, config, shown)
        wanted = [config.id_column, config.time_column, config.target_column, *config.beside]
        yield from _checked(lazy.with_row_index(ROW, offset=1).select(ROW, *wanted), Checked(shown, "row", config))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{shown} cannot be read as Parquet: {first_line(error)}") from error


def _csv_parts(
    path: str, header: list[str], config: DataConfig, mistake: Callable[[Exception], str], *, is_glob: bool = False
) -> Iterator[pl.DataFrame]:
    shown = without_password(path)
    if is_wide(header, config):
        raise DataError(f"{shown} is a wide file, whose times are made up: only rows with times make a data set")
    require_columns(header, config, shown)
    try:
        lazy = pl.scan_csv(path, infer_schema=False, glob=is_glob, row_index_name=ROW, row_index_offset=2)
        blank = pl.all_horizontal(pl.exclude(ROW).is_null())  # an empty line is no row
        yield from _checked(lazy.filter(~blank), Checked(shown, "line", config))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(mistake(error)) from error


def _checked(lazy: pl.LazyFrame, checked: Checked) -> Iterator[pl.DataFrame]:
    """Yield what the streaming engine reads, a batch at a time."""
    for rows in lazy.collect_batches(chunk_size=_ROWS, maintain_order=True, lazy=True):
        if len(rows):
            yield checked.part(rows)
    checked.finish()
