"""The rows that were accepted of each series as runs of steps.

Knows nothing of states.

Shapes: N series, R rows.
"""

import numpy as np
import torch

from forecaster.model.ragged import Runs
from forecaster.serving.admission import Verdict
from forecaster.serving.records import Columns, IntArray


def runs_of(columns: Columns, rows: IntArray, steps: IntArray, first: IntArray, step_us: int) -> Runs:
    """Return the runs of N series, of which `first` are the first rows."""
    counts = np.diff(np.append(first, len(rows)))
    steps = np.where(steps == 0, 1, steps)
    total = np.cumsum(steps)
    offsets = total - np.repeat(total[first] - steps[first], counts) - 1
    start_us = columns.time_us[rows[first]] - (steps[first] - 1) * step_us
    return Runs(
        torch.from_numpy(start_us),
        torch.from_numpy(offsets[first + counts - 1] + 1),
        torch.from_numpy(np.repeat(np.arange(len(first)), counts)),
        torch.from_numpy(offsets),
        torch.from_numpy(columns.values[rows]),
        None if columns.covariates is None else torch.from_numpy(columns.covariates[rows]),
    )


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
