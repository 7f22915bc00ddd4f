"""One partition: what is known of it, and what sources say, to its rows as they are from now on, an upsert.

The rule: rows go by series and time. A value comes to a row that lacked it; nothing, where a value is known, takes it
away. Of two different values the later source's counts, or the first one's, as `ingest.corrections` says; within one
source they are a mistake, unless it says itself which is the later word: that counts whole, and may take a value away.

Knows nothing of files.
"""

import collections
import dataclasses
import datetime as dt
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from forecaster.config.ingest import Corrections
from forecaster.data.grid import Grid
from forecaster.data.manifest import Changes
from forecaster.data.report import EXAMPLES, FEWEST_STEPS, NEARLY_ALL, Finding
from forecaster.data.wording import frequency_hint, shown, time_text
from forecaster.errors import DataError
from pipelines.ingest.series_table import KNOWN
from pipelines.ingest.splitting import RANK_BITS

_KEY = ("code", "us")
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


@dataclass(slots=True)
class Merger:
    """Merges partitions, and keeps what has to be told of all of them.

    Args:
        names: of the series, by their codes.
        values: the columns of values.
        corrections: which of two values counts.
    """

    names: pl.Series
    values: Sequence[str]
    corrections: Corrections
    changes: Changes = field(default_factory=Changes)
    _steps: collections.Counter[int] = field(default_factory=collections.Counter)
    _step_examples: dict[int, tuple[str, ...]] = field(default_factory=dict)
    _twice: int = 0
    _twice_examples: list[str] = field(default_factory=list)
    _corrected_examples: list[str] = field(default_factory=list)

    def merge(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return a partition's rows as they are from now on, in no order: `code`, `us` and the values.

        Args:
            rows: with the column `order` too, see `Split.rows`; those of the data set have the order KNOWN.
        """
        rows = rows.sort(*_KEY, "order")
        same = (pl.col("code") == pl.col("code").shift()) & (pl.col("us") == pl.col("us").shift())
        again = rows.select(same.fill_null(value=False)).to_series()
        several = again | again.shift(-1, fill_value=False)
        alone, shared = rows.filter(~several), rows.filter(several)
        self._add(new=alone.select((pl.col("order") != KNOWN).sum()).item())
        if shared.is_empty():
            return alone.drop("order")
        return pl.concat([alone.drop("order"), self._folded(self._by_source(shared))])

    def _by_source(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return one row for each source, series and time; note those of which a source says two things at once.

        The column `amends` says whether a source corrects itself: then it is the last word alone.
        """
        given = [pl.col(name).drop_nulls().first() for name in self.values]
        found = rows.group_by(*_KEY, "order", maintain_order=True).agg(*given, differs=self._differs())
        twice = found.filter("differs")
        self._twice += len(twice)
        for row in twice.head(EXAMPLES - len(self._twice_examples)).iter_rows(named=True):
            self._twice_examples.append(self._place(row))
        of_source, last = pl.col("order") // 2**RANK_BITS, [pl.col(name).last() for name in self.values]
        amends = (pl.col("order") % 2**RANK_BITS).last() > 0
        by_source = found.group_by(*_KEY, of_source, maintain_order=True)
        return by_source.agg(*last, amends=amends)

    def _folded(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return one row for each series and time, in the order of the sources; count what became of it."""
        is_first = self.corrections == "keep"
        given = [pl.col(name).drop_nulls() for name in self.values]
        was = pl.col("order") == KNOWN
        amends = pl.col("amends").last() if not is_first else pl.lit(value=False)
        taken_away = [pl.col(n).filter(was).first().is_not_null() & pl.col(n).last().is_null() for n in self.values]
        completed = [pl.col(n).filter(was).first().is_null() & pl.col(n).is_not_null().any() for n in self.values]
        found = rows.group_by(*_KEY, maintain_order=True).agg(
            *(
                one.first() if is_first else pl.when(amends).then(pl.col(name).last()).otherwise(one.last()).alias(name)
                for name, one in zip(self.values, given, strict=True)
            ),
            was=was.any(),
            corrected=self._differs() | (amends & pl.any_horizontal(taken_away)),
            completed=was.any() & pl.any_horizontal(completed),
        )
        was_known, corrected = pl.col("was"), pl.col("corrected")
        completed_only = was_known & ~corrected & pl.col("completed")
        counts = found.select(
            new=(~was_known).sum(),
            corrected=corrected.sum(),
            completed=completed_only.sum(),
            known=(was_known & ~corrected & ~pl.col("completed")).sum(),
        )
        self._add(**counts.row(0, named=True))
        room = EXAMPLES - len(self._corrected_examples)
        for row in found.filter("corrected").select(_KEY).head(room).iter_rows(named=True):
            self._corrected_examples.append(self._correction(rows, row))
        return found.drop("was", "corrected", "completed")

    def note_steps(self, rows: pl.DataFrame) -> None:
        """Count the steps between the rows of a partition that is new, sorted by series and time."""
        since = pl.when(pl.col("code") == pl.col("code").shift()).then(pl.col("us") - pl.col("us").shift())
        followers = rows.select(*_KEY, since=since).drop_nulls()
        for step_us, count in followers["since"].value_counts(sort=True).iter_rows():
            self._steps[step_us] += count
            if step_us not in self._step_examples and len(self._step_examples) < EXAMPLES:
                first = followers.filter(pl.col("since") == step_us).head(EXAMPLES)
                self._step_examples[step_us] = tuple(self._place(row) for row in first.iter_rows(named=True))

    def findings(self, step_us: int) -> list[Finding]:
        """Return what is wrong with all that was merged: repeated times that differ, a longer step than declared."""
        found = []
        if self._twice:
            detail = "with different values in one source"
            found.append(Finding("duplicate_time", "error", self._twice, tuple(self._twice_examples), detail))
        total = self._steps.total()
        usual_us, count = self._steps.most_common(1)[0] if total >= FEWEST_STEPS else (step_us, 0)
        if usual_us > step_us and Grid(step_us).has(0, usual_us) and count >= NEARLY_ALL * total:
            examples = self._step_examples.get(usual_us, ())
            found.append(Finding("coarser", "error", count, examples, frequency_hint(usual_us)))
        return found

    def refuse_corrections(self) -> None:
        """Raise DataError if there are corrections, and they are to be refused."""
        count = self.changes.corrected
        if count and self.corrections == "refuse":
            raise DataError(
                f"{count:,} known {'value differs' if count == 1 else 'values differ'}, such as "
                f"{', '.join(self._corrected_examples)}: set ingest.corrections to replace or keep"
            )

    def _differs(self) -> pl.Expr:
        return pl.any_horizontal(pl.col(name).min().ne_missing(pl.col(name).max()) for name in self.values)

    def _correction(self, rows: pl.DataFrame, key: dict[str, int]) -> str:
        said = rows.filter(pl.col("code") == key["code"], pl.col("us") == key["us"])
        name = next(name for name in self.values if said[name].n_unique() > 1)
        given = said[name].drop_nulls()
        then = "nothing" if len(given) == 1 else shown(given[-1])
        return f"{self._place(key)} ({name} {shown(given[0])}, then {then})"

    def _place(self, row: dict[str, int]) -> str:
        return f"{self.names[row['code']]} at {time_text(_EPOCH + dt.timedelta(microseconds=row['us']))}"

    def _add(self, **counts: int) -> None:
        total = dataclasses.asdict(self.changes)
        self.changes = Changes(**{name: total[name] + counts.get(name, 0) for name in total})


def digest_of(ids: pl.Series, us: pl.Series, values: dict[str, pl.Series]) -> str:
    """Return what tells rows, sorted by series and time, from others; a column of nothing is as good as none."""
    digest = hashlib.blake2b(digest_size=32)
    runs = ids.rle().struct.unnest()
    given = {name: column for name, column in sorted(values.items()) if column.null_count() < len(column)}
    digest.update(json.dumps([runs["value"].to_list(), list(given)]).encode())
    arrays = [runs["len"].cast(pl.Int64), us, *(c.cast(pl.Float64).fill_null(np.nan) for c in given.values())]
    for array in arrays:
        digest.update(np.ascontiguousarray(array.to_numpy()).tobytes())
    return digest.hexdigest()
