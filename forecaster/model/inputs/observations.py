"""Consecutive steps of several series, and what a scan over them knows after each.

Shapes: B series, T steps, C covariates, M memory, K attended steps, E static features, H hidden.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from forecaster.model.inputs.memory import Extended
from forecaster.model.inputs.normalizer import Statistics


class Observations(NamedTuple):
    """T consecutive steps of B series.

    Args:
        time_us: microseconds since the Unix epoch, int64 [B, T].
        values: float64 [B, T]; anything finite where not observed.
        observed: bool [B, T].
        covariates: past ones, then known-future ones, raw, NaN where missing, float64 [B, T, C]; None means that
            all are missing.
    """

    time_us: Tensor
    values: Tensor
    observed: Tensor
    covariates: Tensor | None = None

    def each(self, change: Callable[[Tensor], Tensor]) -> "Observations":
        """Return the same change made to every field."""
        covariates = None if self.covariates is None else change(self.covariates)
        return Observations(change(self.time_us), change(self.values), change(self.observed), covariates)

    def part(self, window: slice) -> "Observations":
        """Return the steps of a slice."""
        return self.each(lambda field: field[:, window])

    def rows(self, rows: slice | Tensor) -> "Observations":
        """Return some of the series."""
        return self.each(lambda field: field[rows])

    def at(self, step: int) -> "Observations":
        """Return one step, as `Seq2Seq.step` takes it: the fields are [B]."""
        return self.each(lambda field: field[:, step])

    @classmethod
    def of(cls, time_us: Tensor, values: Tensor, covariates: Tensor | None = None) -> "Observations":
        """Return observations whose missing values are NaN."""
        return cls(time_us, values.nan_to_num(0.0), torch.isfinite(values), covariates)


class Encoded(NamedTuple):
    """What a scan knows after each of its steps; `Seq2Seq.origins_of` turns steps of it into origins.

    Args:
        context: float32 [B, T, H].
        statistics: [B, T] each.
        extended: the memory before the scan and its values, [B, M + T].
        time_us: int64 [B, T].
        static: the series' static features, float32 [B, E].
        outputs: the encoder's outputs, the K before the scan in front, float32 [B, K + T, H]; empty without attention.
        position: steps seen before the scan, int64 [B].
    """

    context: Tensor
    statistics: Statistics
    extended: Extended
    time_us: Tensor
    static: Tensor
    outputs: Tensor
    position: Tensor
