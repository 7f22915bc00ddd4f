"""What a data set is: the files that belong to it, what is in them, and what they were made of.

A data set is a folder with `manifest.json`, Parquet files that hold a stretch of time each (`unique_id`, `ds`, `y` and
what changes beside them, sorted by series and time), and one that holds what is known of each series. Only what the
manifest lists belongs to it; whatever else lies there is a leftover of a write that was cut short.

Knows nothing of how a data set is made or read.
"""

import dataclasses
import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from forecaster.config.ingest import Partition
from forecaster.durable_files import sync_folder, write_durably
from forecaster.errors import DataError

MANIFEST = "manifest.json"
FORMAT = 1
Role = Literal["id", "time", "target", "past", "future", "static", "category", "end"]
Mark = Mapping[str, str | int]
Extent = tuple[int, int]  # the first and the last time, in microseconds since the epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFile:
    """One Parquet file with all rows of a stretch of time.

    Args:
        name: in the data set's folder.
        partition: the stretch, such as 2013-01.
        rows: how many.
        first: the earliest time.
        last: the latest time.
        digest: of the rows, however they came there.
    """

    name: str
    partition: str
    rows: int
    first: dt.datetime
    last: dt.datetime
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesFile:
    """The Parquet file with a row for each series: `unique_id`, `phase_us` of its grid, static covariates.

    Args:
        name: in the data set's folder.
        digest: of the static covariates.
    """

    name: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What an ingest did, in rows.

    Args:
        new: of a series and time that was not known.
        completed: known ones that lacked a value which is there now.
        corrected: for which two values were given; which one counts, `ingest.corrections` says.
        known: that said nothing new.
        series: for which two static covariates were given.
    """

    new: int = 0
    completed: int = 0
    corrected: int = 0
    known: int = 0
    series: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A data set.

    Args:
        frequency: the time step.
        partition: the stretch of time that a file holds.
        columns: what each column is, by its name.
        rows: of all files.
        series: that have rows.
        first: the earliest time.
        last: the latest time.
        content_hash: of all that the files say; the same rows have the same hash, however many ingests brought them.
        files: by time.
        series_file: what is known of each series.
        made_at: when the manifest was written.
        changes: what the ingest that wrote it did.
        corrections: the rule by which it dealt with other values for known rows.
        sources: what each source was when it was read, by its name, in the order in which they count.
        extents: the times that were read of each source, by its name.
    """

    frequency: str
    partition: Partition
    columns: Mapping[str, Role]
    rows: int
    series: int
    first: dt.datetime
    last: dt.datetime
    content_hash: str
    files: tuple[DataFile, ...]
    series_file: SeriesFile
    made_at: dt.datetime
    changes: Changes = field(default_factory=Changes)
    corrections: str = "replace"
    sources: Mapping[str, Mark] = field(default_factory=dict)
    extents: Mapping[str, Extent] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """Read a manifest; raises DataError if it is none, or one of a later version, and FileNotFoundError."""
        try:
            said = json.loads(path.read_text("utf-8"))
            number = said.pop("format")
            if number != FORMAT:
                raise DataError(f"{path} is of format {number}, this version knows {FORMAT}: choose another folder")
            return _from_plain(said)
        except FileNotFoundError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{path} is not a data set's manifest ({error}): make the data set anew") from error

    def write(self, folder: Path) -> None:
        """Put it in its place, all of it or nothing; the files that it lists are on the disk before."""
        said = {"format": FORMAT, **dataclasses.asdict(self)}
        text = json.dumps(said, indent=1, default=dt.datetime.isoformat, ensure_ascii=False) + "\n"
        sync_folder(folder)
        write_durably(folder / MANIFEST, lambda file: file.write(text.encode()))
        sync_folder(folder)

    def file_names(self) -> set[str]:
        """Return the names of the data set's files."""
        return {file.name for file in self.files} | {self.series_file.name}


def manifest_at(path: str | Path) -> Path | None:
    """Return the manifest that a path names, or that its folder has; None if it is no data set's."""
    given = Path(path).expanduser()
    found = given if given.name == MANIFEST else given / MANIFEST
    return found if found.is_file() else None


def _from_plain(said: dict[str, Any]) -> Manifest:
    files = tuple(DataFile(**_with_times(file, "first", "last")) for file in said["files"])
    parts = {"files": files, "series_file": SeriesFile(**said["series_file"]), "changes": Changes(**said["changes"])}
    parts |= {"extents": {name: (first, last) for name, (first, last) in said.get("extents", {}).items()}}
    return Manifest(**_with_times(said | parts, "first", "last", "made_at"))


def _with_times(said: dict[str, Any], *names: str) -> dict[str, Any]:
    return said | {name: dt.datetime.fromisoformat(said[name]) for name in names}
