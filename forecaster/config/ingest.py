"""Where a data set is made of, and where it is kept."""

from dataclasses import dataclass
from typing import Literal, get_args

from forecaster.config.checks import require, require_types

Partition = Literal["day", "month", "year"]
Corrections = Literal["replace", "keep", "refuse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestConfig:
    """Where a data set is made of, and where it is kept.

    Args:
        sources: CSV or Parquet files, globs or object-store URLs, the later ones counting more; left out,
            `data.path`, unless there is a query or a server's state.
        sql_url: an SQLAlchemy URL of a database.
        sql_query: asked of it; its columns are those that the data section names.
        state: a server's journal and history, by its `serving.state`, read beside the server; if it holds those of
            several models, `tracking.model` says which.
        accept_dropped: go on if rows left the server's journal without a history before they were read.
        output: the data set's folder: Parquet files and a manifest.
        partition: the stretch of time that a file holds; what falls into one has to fit into memory.
        corrections: what becomes of a value that differs from the one known for its series and time: it replaces
            that, that is kept, or the ingest is refused.
    """

    sources: tuple[str, ...] = ()
    sql_url: str | None = None
    sql_query: str | None = None
    state: str | None = None
    accept_dropped: bool = False
    output: str = "dataset"
    partition: Partition = "month"
    corrections: Corrections = "replace"

    def __post_init__(self) -> None:
        require_types(self, "ingest")
        choices = (("partition", get_args(Partition)), ("corrections", get_args(Corrections)))
        for name, allowed in choices:
            require(getattr(self, name) in allowed, f"ingest.{name}", getattr(self, name), " or ".join(allowed))
        both = (self.sql_url is None) == (self.sql_query is None)
        require(both, "ingest.sql_query", self.sql_query, "it together with ingest.sql_url")
