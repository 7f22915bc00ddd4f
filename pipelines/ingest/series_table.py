"""What an ingest knows of each series: its name as a number, the phase of its grid, its static covariates.

All of it is in memory; rows are not.

Knows nothing of files of rows or of partitions.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from forecaster.data.grid import Grid
from forecaster.data.report import EXAMPLES, Finding
from forecaster.data.wording import shown, time_text
from forecaster.errors import DataError

KNOWN = 0  # the order of what the data set has already; sources come after it
SAID = "__forecaster_said"  # of a part: the rank of a later word, where a source says itself which of two counts
_MOST_HELD = 4_000_000  # rows of notes before they are summed up


class SeriesTable:
    """Every series of a data set and of the sources that are being read.

    Args:
        step_us: of the grids.
        static: the static columns of all of them: the type of each.
        path: of the data set's file, None for a new one.
    """

    def __init__(self, step_us: int, static: dict[str, pl.DataType], path: Path | None) -> None:
        self._step_us, self.static = step_us, static
        held = pl.read_parquet(path, glob=False) if path is not None else pl.DataFrame(schema={"unique_id": pl.String})
        missing = [pl.lit(None, kind).alias(name) for name, kind in static.items() if name not in held.columns]
        held = held.with_columns(missing)
        self._names = held.select("unique_id", code=pl.int_range(pl.len(), dtype=pl.UInt32))
        codes = self._names["code"]
        phases = held["phase_us"] if "phase_us" in held.columns else pl.Series([None] * len(held), dtype=pl.Int64)
        known = pl.DataFrame({"code": codes, "phase": phases}).drop_nulls()
        self._known_phases = known
        self._times: list[pl.DataFrame] = []
        self._static: list[pl.DataFrame] = []
        if static:
            self.note_static(KNOWN, codes, held)

    def __len__(self) -> int:
        return len(self._names)

    @property
    def names(self) -> pl.Series:
        """The names, by their codes."""
        return self._names["unique_id"]

    def codes(self, ids: pl.Series) -> pl.Series:
        """Return the codes of names, UInt32; new ones get the next."""
        unique = ids.alias("unique_id").unique(maintain_order=True).to_frame()
        new = unique.join(self._names, on="unique_id", how="anti", maintain_order="left")
        if new.height:
            first = len(self._names)
            numbered = new.with_columns(code=pl.int_range(first, first + new.height, dtype=pl.UInt32))
            self._names = pl.concat([self._names, numbered])
        rows = ids.alias("unique_id").to_frame()
        return rows.join(self._names, on="unique_id", how="left", maintain_order="left")["code"]

    def note_times(self, codes: pl.Series, us: pl.Series) -> None:
        """Take the times of rows, microseconds, to see whether each series keeps to its grid."""
        phase = Grid(self._step_us).phase(us)
        rows = pl.DataFrame({"code": codes, "us": us, "phase": phase})
        self._times.append(rows.group_by("code", "phase").agg(rows=pl.len().cast(pl.Int64), us=pl.col("us").min()))
        if sum(map(len, self._times)) > _MOST_HELD:
            self._times = [self._phases()]

    def note_static(self, order: int, codes: pl.Series, rows: pl.DataFrame) -> None:
        """Take the static covariates that stand beside rows of a source."""
        names = list(self.static)
        found = rows.select(codes.alias("code"), pl.lit(order, pl.Int32).alias("order"), *names)
        self._static.append(_ranges(found, names))
        if sum(map(len, self._static)) > _MOST_HELD:
            self._static = [self._static_ranges()]

    def off_grid(self) -> Finding | None:
        """Return the times that have not the phase of their series: the known one, else the most common one."""
        found = self._phases()
        off = found.join(self._usual(found), on="code", how="left").filter(pl.col("phase") != pl.col("phase_us"))
        off = off.sort("us", "code")
        if off.is_empty():
            return None
        first = off.head(EXAMPLES).with_columns(ds=pl.from_epoch("us", "us").dt.replace_time_zone("UTC"))
        places = first.select("code", "ds").iter_rows()
        examples = tuple(f"{self.names[code]} at {time_text(time)}" for code, time in places)
        return Finding("off_grid", "error", int(off["rows"].sum()), examples)

    def finish(self, corrections: str) -> tuple[pl.DataFrame, int]:
        """Return the data set's table, sorted by name, and for how many series two static covariates were given.

        Raises DataError if a source contradicts itself, or the data set and corrections are
        refused.
        """
        table = self._names.join(self._usual(self._phases()), on="code", how="left")
        if not self.static:
            return table.select("unique_id", "phase_us").sort("unique_id"), 0
        ranges = self._static_ranges()
        names = list(self.static)
        low, high = ([f"{name}:{end}" for name in names] for end in ("low", "high"))
        self._refuse(ranges, names)
        given = [pl.col(one).drop_nulls() for one in low]
        pick = [one.first() if corrections == "keep" else one.last() for one in given]
        values = (
            ranges.sort("code", "order")
            .group_by("code")
            .agg(
                *(one.alias(name) for one, name in zip(pick, names, strict=True)),
                corrected=pl.any_horizontal(
                    pl.col(a).min().ne_missing(pl.col(b).max()) for a, b in zip(low, high, strict=True)
                ),
            )
        )
        changed = values.filter("corrected").sort("code")
        if len(changed) and corrections == "refuse":
            name = self.names[changed["code"][0]]
            raise DataError(
                f"{len(changed):,} series have other static covariates than before, such as {name}: "
                "set ingest.corrections to replace or keep"
            )
        columns = ("unique_id", "phase_us", *names)
        return table.join(values, on="code", how="left").select(columns).sort("unique_id"), len(changed)

    def ranks(self) -> npt.NDArray[np.uint32]:
        """Return the place of each code among the sorted names."""
        order = self.names.arg_sort().to_numpy()
        ranks = np.empty(len(order), dtype=np.uint32)
        ranks[order] = np.arange(len(order), dtype=np.uint32)
        return ranks

    def _refuse(self, ranges: pl.DataFrame, names: Sequence[str]) -> None:
        """Refuse a static covariate that differs between two rows of one source."""
        for name in names:
            differs = ranges.filter(pl.col(f"{name}:low") != pl.col(f"{name}:high")).sort("code", "order")
            if differs.height:
                code, first, other = differs.select("code", f"{name}:low", f"{name}:high").row(0)
                raise DataError(
                    f"{name} of {self.names[code]} is {shown(first)} in one row and {shown(other)} in another of the"
                    " same source: a static covariate is the same in all rows of a series"
                )

    def _usual(self, found: pl.DataFrame) -> pl.DataFrame:
        """Return the phase of each series' grid, `phase_us`: the known one, else the one that most rows have."""
        ranked = found.sort("rows", "us", descending=[True, False])
        usual = ranked.unique("code", keep="first", maintain_order=True).select("code", "phase")
        new = usual.join(self._known_phases, on="code", how="anti")
        return pl.concat([self._known_phases, new]).rename({"phase": "phase_us"})

    def _phases(self) -> pl.DataFrame:
        types = {"code": pl.UInt32, "phase": pl.Int64, "rows": pl.Int64, "us": pl.Int64}
        rows = pl.concat([pl.DataFrame(schema=types), *self._times], how="vertical_relaxed")
        return rows.group_by("code", "phase").agg(pl.col("rows").sum(), pl.col("us").min())

    def _static_ranges(self) -> pl.DataFrame:
        ends = [pl.col(f"{name}:{end}") for name in self.static for end in ("low", "high")]
        whole = pl.concat(self._static)
        picks = [end.min() if k % 2 == 0 else end.max() for k, end in enumerate(ends)]
        return whole.group_by("code", "order").agg(picks)


def static_digest(table: pl.DataFrame) -> str:
    """Return what tells the static covariates of a table, sorted by name, from others."""
    names = sorted(name for name in table.columns if name not in ("unique_id", "phase_us"))
    given = table.filter(pl.any_horizontal(pl.lit(False), *(pl.col(name).is_not_null() for name in names)))
    digest = hashlib.blake2b(digest_size=32)
    for row in given.select("unique_id", *names).iter_rows():
        digest.update(
            json.dumps([row[0], {n: v for n, v in zip(names, row[1:], strict=True) if v is not None}]).encode()
        )
    return digest.hexdigest()


def _ranges(rows: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    ends = [
        end
        for name in names
        for end in (pl.col(name).min().alias(f"{name}:low"), pl.col(name).max().alias(f"{name}:high"))
    ]
    return rows.group_by("code", "order").agg(ends)
