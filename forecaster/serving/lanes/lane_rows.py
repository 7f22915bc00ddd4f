"""Which rows of a batch, or of records, a lane's states are still to take, and how many steps each advances.

Knows columns and verdicts; knows nothing of states.

Shapes: R rows, N series.
"""

import numpy as np
import torch

from forecaster.data.grid import Grid
from forecaster.model.stepping.ragged import Runs
from forecaster.serving.storage.issued import Issued
from forecaster.serving.storage.records import Attributes, Columns, IntArray
from forecaster.serving.work.outcome import Verdict


def runs_of(columns: Columns, rows: IntArray, steps: IntArray, first: IntArray, grid: Grid) -> Runs:
    """Return the runs of N series, of which `first` are the first rows."""
    counts = np.diff(np.append(first, len(rows)))
    steps = np.where(steps == 0, 1, steps)
    total = np.cumsum(steps)
    offsets = total - np.repeat(total[first] - steps[first], counts) - 1
    start_us = grid.time(columns.time_us[rows[first]], 1 - steps[first])
    return Runs(
        torch.from_numpy(start_us),
        torch.from_numpy(offsets[first + counts - 1] + 1),
        torch.from_numpy(np.repeat(np.arange(len(first)), counts)),
        torch.from_numpy(offsets),
        torch.from_numpy(columns.values[rows]),
        None if columns.covariates is None else torch.from_numpy(columns.covariates[rows]),
    )


def behind(record: Attributes, sequence: int, stand: dict[str, int]) -> Attributes:
    """Return what of a record states that stand at `stand` do not hold."""
    return record.of(k for k, name in enumerate(record.series_ids) if stand[name] < sequence)


def behind_issued(record: Issued, sequence: int, stand: dict[str, int]) -> Issued:
    """Return what of issued forecasts states that stand at `stand` do not hold."""
    return record.of(k for k, name in enumerate(record.series_ids) if stand[name] < sequence)


def rows_behind(record: Columns, sequence: int, stand: dict[str, int]) -> Columns:
    """Return the rows of a record that states that stand at `stand` do not hold."""
    missing = np.array([stand[name] < sequence for name in record.series_ids], dtype=bool)
    return record if missing.all() else record.rows(missing[record.series])


def since_last_start(columns: Columns, verdict: Verdict) -> tuple[IntArray, IntArray]:
    """Return the accepted rows from each series' last fresh start on, and the steps that they advance."""
    rows, steps = verdict.accepted, verdict.advance
    series = columns.series[rows]
    starts = np.flatnonzero(steps == 0)
    if not len(starts):
        return rows, steps
    last_start = np.zeros(len(columns.series_ids), dtype=np.int64)
    last_start[series[starts]] = starts  # ascending, so the last one of a series stays
    keep = np.arange(len(rows)) >= last_start[series]
    return rows[keep], steps[keep]
