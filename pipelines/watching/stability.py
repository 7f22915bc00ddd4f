"""Whether the inputs are still those that a model was trained on: the population stability index.

    PSI = Σ (p - q) · ln(p / q)        (Siddiqi 2006, Credit Risk Scorecards, ch. 10; twice Jeffreys' divergence)

p are the shares of the newest values, q those of the training's, in bins. The bins are the tenths of the training's
values, each series' scaled by its own training mean and standard deviation; tenths that ties have made empty are merged
with their neighbours, and half a count is added to every share, so that a bin that the newest values left empty has a
logarithm too.

Values of a series depend on each other, so that any short stretch differs from the whole: by how much is measured on
the training itself, whose stretches of the same length have an index each. The newest values are unusual if theirs is
above the largest of those by `max_stability_index`.

Knows frames; knows nothing of models, and nothing of where the frames come from.

Shapes: K stretches, B bins.
"""

import datetime as dt
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

_TENTHS = tuple(k / 10 for k in range(1, 10))
_LEAST_VALUES = 100  # of the newest: ten a bin
_LEAST_STRETCHES = 3

Counts = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Stability:
    """How unusual the newest values are.

    Args:
        index: the population stability index of the newest values.
        usual: the largest of stretches of the training as long as them.
        values: how many newest values there are.
        since: their first time.
    """

    index: float
    usual: float
    values: int
    since: dt.datetime


def stability(
    rows: pl.LazyFrame, *, trained_until: dt.datetime, since: dt.datetime, step: dt.timedelta
) -> Stability | None:
    """Compare the newest values with those of the training.

    Args:
        rows: unique_id, ds, y. They are read by the streaming engine, three times.
        trained_until: the training's last time.
        since: the first of the newest times, after `trained_until`.
        step: between two times.

    Returns:
        None if there are too few values to say anything.
    """
    rows = rows.select("unique_id", "ds", "y").filter(pl.col("y").is_finite())
    training = rows.filter(pl.col("ds") <= trained_until)
    scales = training.group_by("unique_id").agg(pl.col("y").mean().alias("level"), pl.col("y").std().alias("scale"))
    scales = scales.filter(pl.col("scale") > 0).collect(engine="streaming").lazy()
    scaled = rows.join(scales, on="unique_id").select("ds", z=(pl.col("y") - pl.col("level")) / pl.col("scale"))
    known = scaled.filter(pl.col("ds") <= trained_until)
    tenths = known.select(pl.col("z").quantile(at).alias(str(at)) for at in _TENTHS).collect(engine="streaming").row(0)
    edges = sorted({edge for edge in tenths if edge is not None})
    last = rows.select(pl.col("ds").max()).collect(engine="streaming").item()
    if not edges or last is None or last < since:
        return None
    newest, stretches = _counts(scaled, edges, trained_until, since, last - since + step)
    if newest.sum() < _LEAST_VALUES or len(stretches) < _LEAST_STRETCHES:
        return None
    whole = stretches.sum(axis=0)
    usual = max(stability_index(stretch, whole) for stretch in stretches)
    return Stability(stability_index(newest, whole), usual, int(newest.sum()), since)


def stability_index(newest: Counts, training: Counts) -> float:
    """Return the population stability index of counts in bins, float64 [B] each; bins that training left empty merge.

    A bin that is empty in training joins the next one above it that is not, the highest ones the last that is not.
    """
    groups = np.minimum(np.cumsum(np.concatenate([[0], training[:-1] > 0])), max((training > 0).sum() - 1, 0))
    p, q = (np.bincount(groups, weights=counts) + 0.5 for counts in (newest, training))
    p, q = p / p.sum(), q / q.sum()
    return float(((p - q) * np.log(p / q)).sum())


def _counts(
    scaled: pl.LazyFrame, edges: list[float], trained_until: dt.datetime, since: dt.datetime, length: dt.timedelta
) -> tuple[Counts, Counts]:
    """Return the counts of the newest values [B], and of whole stretches of the training [K, B]."""
    back = (pl.lit(trained_until) - pl.col("ds")).dt.total_microseconds() // (length // dt.timedelta(microseconds=1))
    stretch = pl.when(pl.col("ds") <= trained_until).then(back).when(pl.col("ds") >= since).then(-1)
    bins = pl.sum_horizontal(pl.col("z") > edge for edge in edges)
    found = (
        scaled.select(stretch=stretch, bin=bins)
        .drop_nulls()
        .group_by("stretch", "bin")
        .len()
        .collect(engine="streaming")
    )
    ages, size = found["stretch"].to_numpy(), len(edges) + 1
    table = np.zeros((int(ages.max(initial=0)) + 2, size))
    table[ages + 1, found["bin"].to_numpy()] = found["len"].to_numpy()
    stretches = table[1:]
    oldest_is_whole = len(stretches) and stretches[-1].sum() * 2 > np.median(stretches.sum(axis=1))
    return table[0], stretches if oldest_is_whole else stretches[:-1]
