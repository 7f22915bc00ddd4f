"""Say what is wrong or noteworthy in data, with counts and first examples; change nothing.

`Place` does it for the rows of an input that cannot be understood (used by `schema`), `inspect_frame`
for a canonical frame: repeated times, times off the grid, infinite values, gaps, missing values and covariates,
constant series. Errors stop training and serving, notices do not.

This module knows nothing of files, of models, or of how a finding could be repaired.
"""

import datetime as dt
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import polars as pl

from forecaster.config import DataConfig
from forecaster.config.values import MAX_MAGNITUDE
from forecaster.data.grid import Grid
from forecaster.data.windows import past, too_large
from forecaster.data.wording import UNITS_US, frequency_hint, frequency_text, from_us, shown, time_text
from forecaster.errors import DataError

FILE, ROW = "__forecaster_file", "__forecaster_row"  # where a row came from, while it is being checked

EXAMPLES = 3
NEARLY_ALL, FEWEST_STEPS = 0.9, 10  # of the steps of a frequency that is surely another
_CALENDAR = {"monthly": (28, 31), "quarterly": (89, 92), "yearly": (365, 366)}  # days, fewest and most
_BEYOND = f"beyond ±{MAX_MAGNITUDE:g}"
_TOO_LARGE = "no server takes them; leave them empty if they are missing"
# kind -> what its count counts (one, several), and what to do about it
_MEANING = {
    "duplicate_time": ("repeated time", "repeated times", "keep one row for each series and time"),
    "off_grid": ("time off the grid", "times off the grid", "correct the times or the frequency"),
    "coarser": ("longer step", "longer steps", "a wrong frequency makes most of the data missing"),
    "infinite": ("infinite value", "infinite values", "leave them empty if they are missing"),
    "too_large": (f"value {_BEYOND}", f"values {_BEYOND}", _TOO_LARGE),
    "gap": ("gap", "gaps", ""),
    "null": ("missing value", "missing values", ""),
    "infinite_covariate": ("infinite covariate", "infinite covariates", "leave them empty if they are missing"),
    "too_large_covariate": (f"covariate {_BEYOND}", f"covariates {_BEYOND}", _TOO_LARGE),
    "missing_covariate": ("missing covariate", "missing covariates", ""),
    "future": ("row of the known future", "rows of the known future", ""),
    "constant": ("constant series", "constant series", ""),
}


@dataclass(frozen=True, slots=True)
class Place:
    """Names the place of an input row for a person: 'meters.csv line 17', or 'the frame row 16'.

    Args:
        names: of the files; a row's `FILE` column is the index of its file.
        unit: what a row's `ROW` column counts: line or row, the first being 1.
    """

    names: tuple[str, ...]
    unit: str

    def place(self, file: int, row: int) -> str:
        """Return where a row is."""
        return f"{self.names[file]} {self.unit} {row}"

    def refuse(self, rows: pl.DataFrame, bad: pl.Series, column: str, what: str, advice: str) -> None:
        """Raise DataError with the first place, the count and up to three values, if any row is bad."""
        if not bad.any():
            return
        wrong = rows.filter(bad).sort(FILE, ROW)
        values = [shown(value) for value in wrong[column].unique(maintain_order=True).head(EXAMPLES)]
        notes = [f"{wrong.height:,} such rows"] if wrong.height > 1 else []
        notes += ["also " + ", ".join(values[1:])] if len(values) > 1 else []
        more = f" ({', '.join(notes)})" if notes else ""
        place = self.place(wrong[FILE][0], wrong[ROW][0])
        raise DataError(f"{place}: {column}={values[0]} {what}{more}; {advice}")


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of thing found in the data.

    Args:
        kind: duplicate_time, off_grid, coarser, infinite, gap, null, constant, infinite_covariate, missing_covariate or
            future (rows behind a series' last value that carry known-future covariates).
        severity: an error must be corrected by the data's owner; a notice is worth knowing.
        count: how many rows (gap: runs of missing steps, constant: series).
        examples: the first three in the order of series and time, such as
            "EWR/wind_speed at 2013-02-12T03:00:00Z".
        detail: one more fact, or empty.
    """

    kind: str
    severity: Literal["error", "notice"]
    count: int
    examples: tuple[str, ...]
    detail: str = ""

    def __str__(self) -> str:
        one, several, _ = _MEANING[self.kind]
        detail = f" ({self.detail})" if self.detail else ""
        return f"{self.count:,} {one if self.count == 1 else several}{detail}: {', '.join(self.examples)}"


@dataclass(frozen=True, slots=True)
class DataReport:
    """The size of a data set, its extent in time, and everything found in it."""

    rows: int
    series: int
    first_time: dt.datetime
    last_time: dt.datetime
    findings: tuple[Finding, ...]

    def raise_for_errors(self) -> None:
        """Raise DataError, one line for all errors, if there are any."""
        raise_for_errors(self.findings)

    def lines(self) -> list[str]:
        """Return the report for people, one line for the whole and one for each finding."""
        extent = f"{time_text(self.first_time)} to {time_text(self.last_time)}"
        head = f"{self.rows:,} {'row' if self.rows == 1 else 'rows'} in {self.series:,} series from {extent}"
        return [head, *(f"{finding.severity}: {finding}" for finding in self.findings)]


def raise_for_errors(findings: Iterable[Finding]) -> None:
    """Raise DataError, one line for all errors among findings, if there are any."""
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        parts = [f"{finding}; {_MEANING[finding.kind][2]}" for finding in errors]
        raise DataError(f"the data cannot be used as it is: {' | '.join(parts)}")


def inspect_frame(frame: pl.DataFrame, config: DataConfig) -> DataReport:
    """Return what is wrong or noteworthy in a canonical frame under the configured frequency.

    A series' grid has its most common phase, so that one odd stamp is one finding; a gap is a run of
    grid points without a row between two rows of a series.
    """
    if frame.is_empty():
        raise DataError("the data has no rows")
    step_us = config.step_us
    name, us = pl.col("unique_id"), pl.col("us")
    rows = (
        frame.select("unique_id", "ds", pl.col("y").fill_nan(None), us=pl.col("ds").dt.epoch("us"))
        .sort("unique_id", "us")
        .with_columns(since=pl.when(name == name.shift()).then(us - us.shift()))
    )
    before = past(frame, config)
    known = rows if before.height == frame.height else rows.join(before, on=["unique_id", "ds"], how="semi")
    hint = _frequency_hint(rows, step_us)
    found = [
        _rows_finding("duplicate_time", "error", rows.filter(pl.col("since") == 0)),
        _rows_finding("off_grid", "error", _off_grid(rows, step_us), hint),
        _rows_finding("coarser", "error", _coarser(rows, step_us), hint),
        _rows_finding("infinite", "error", rows.filter(pl.col("y").is_infinite())),
        _rows_finding("too_large", "error", rows.filter(pl.col("y").pipe(too_large))),
        _gap(rows, step_us, hint),
        _null(known),
        _constant(known),
        *_covariates(frame, before, config),
    ]
    first, last = rows.select(first=us.min(), last=us.max()).row(0)
    return DataReport(
        rows.height, rows["unique_id"].n_unique(), from_us(first), from_us(last), tuple(filter(None, found))
    )


def _rows_finding(
    kind: str, severity: Literal["error", "notice"], rows: pl.DataFrame, detail: str = ""
) -> Finding | None:
    """Return the finding whose count is the given rows, or None if there are none."""
    if rows.is_empty():
        return None
    first = rows.head(EXAMPLES).select("unique_id", "ds").iter_rows()
    examples = tuple(f"{name} at {time_text(time)}" for name, time in first)
    return Finding(kind, severity, rows.height, examples, detail)


def _off_grid(rows: pl.DataFrame, step_us: int) -> pl.DataFrame:
    """Return the rows whose time has not the phase that most rows of their series have."""
    phase = Grid(step_us).phase(pl.col("us"))
    changed = pl.col("since").is_not_null() & (phase != phase.shift())
    if not rows.select(changed.any()).item():
        return rows.clear()
    phased = rows.with_columns(phase=phase)
    counted = phased.group_by("unique_id", "phase").agg(rows=pl.len(), first=pl.col("us").min())
    ranked = counted.sort("rows", "first", descending=[True, False])
    usual = ranked.unique("unique_id", keep="first", maintain_order=True).select("unique_id", usual="phase")
    joined = phased.join(usual, on="unique_id", how="left", maintain_order="left")
    return joined.filter(pl.col("phase") != pl.col("usual"))


def _coarser(rows: pl.DataFrame, step_us: int) -> pl.DataFrame:
    """Return the rows that come a whole number of steps, always the same, after their predecessor, if nearly all do."""
    followers = rows.filter(pl.col("since") > 0)
    if followers.is_empty():
        return followers
    usual_us, _ = followers["since"].value_counts(sort=True).row(0)
    same = followers.filter(pl.col("since") == usual_us)
    is_coarser = usual_us > step_us and Grid(step_us).has(0, usual_us) and len(followers) >= FEWEST_STEPS
    return same if is_coarser and len(same) >= NEARLY_ALL * len(followers) else rows.clear()


def _gap(rows: pl.DataFrame, step_us: int, hint: str) -> Finding | None:
    """Return the runs of missing grid points; each example is the first missing point of a run."""
    grid = Grid(step_us)
    gaps = rows.with_columns(missing=grid.index(0, pl.col("since")) - 1).filter(pl.col("missing") > 0)
    if gaps.is_empty():
        return None
    first = gaps.head(EXAMPLES).select("unique_id", grid.next(pl.col("us") - pl.col("since")), "missing")
    examples = tuple(
        f"{name} at {time_text(from_us(us))} for {frequency_text(grid.span_us(missing))}"
        for name, us, missing in first.iter_rows()
    )
    total, longest = gaps.select(total=pl.col("missing").sum(), longest=pl.col("missing").max()).row(0)
    detail = f"{total:,} missing steps, the longest gap {longest:,}" + (f"; {hint}" if hint else "")
    return Finding("gap", "notice", gaps.height, examples, detail)


def _null(rows: pl.DataFrame) -> Finding | None:
    """Return the rows without a value, and say if whole series have none."""
    never = rows.group_by("unique_id").agg(pl.col("y").count()).filter(pl.col("y") == 0).sort("unique_id")
    detail = ""
    if never.height:
        detail = f"{never.height:,} series without any value, the first {never['unique_id'][0]}"
    return _rows_finding("null", "notice", rows.filter(pl.col("y").is_null()), detail)


def _constant(rows: pl.DataFrame) -> Finding | None:
    """Return the series with two values or more, all of them equal."""
    y = pl.col("y")
    ranges = rows.group_by("unique_id").agg(count=y.count(), low=y.min(), high=y.max())
    same = ranges.filter(pl.col("count") >= 2, pl.col("low") == pl.col("high")).sort("unique_id")
    if same.is_empty():
        return None
    first = same.head(EXAMPLES).select("unique_id", "low").iter_rows()
    return Finding("constant", "notice", same.height, tuple(f"{name} is always {value}" for name, value in first))


def _covariates(frame: pl.DataFrame, known: pl.DataFrame, config: DataConfig) -> Iterator[Finding | None]:
    """Yield the rows of the known future, the infinite covariates, and the missing shares in the other rows."""
    if not config.covariates:
        return
    rows = frame.sort("unique_id", "ds")
    if rows.height > known.height:
        yield _rows_finding("future", "notice", rows.join(known, on=["unique_id", "ds"], how="anti"))
    for name in (*config.past_covariates, *config.future_covariates, *config.static_covariates):
        yield _rows_finding("infinite_covariate", "error", rows.filter(pl.col(name).is_infinite()), name)
        yield _rows_finding("too_large_covariate", "error", rows.filter(pl.col(name).pipe(too_large)), name)
    missing = {name: known[name].null_count() for name in config.covariates}
    examples = [f"{name} {count / known.height:.1%} of the rows" for name, count in missing.items() if count]
    if examples:
        yield Finding("missing_covariate", "notice", sum(missing.values()), tuple(examples))


def _frequency_hint(rows: pl.DataFrame, step_us: int) -> str:
    """Return which frequency the data seems to have if most differences are another constant step."""
    since = rows.filter(pl.col("since") > 0)["since"]
    if since.is_empty():
        return ""
    for name, days in _CALENDAR.items():
        low, high = (UNITS_US["d"] * count for count in days)
        if since.n_unique() > 1 and since.is_between(low, high).sum() >= NEARLY_ALL * len(since):
            advice = "write evenly spaced times in their place, such as weeks, and set --model.calendar false"
            return f"the data looks {name}, and such steps vary in length: {advice}"
    usual_us, count = since.value_counts(sort=True).row(0)
    fitting = (since % usual_us == 0).sum()  # gaps are whole steps, else it is no step of this data
    if usual_us == step_us or 2 * count <= len(since) or fitting < NEARLY_ALL * len(since):
        return ""
    return frequency_hint(usual_us)
