"""Lanes of series, cut into chunks: what one update of the weights sees.

A long series is cut into lanes of equal length at new places every epoch, so that one batch holds different
seasons of the year; each lane starts from a fresh state and is walked chunk by chunk. A chunk brings the
horizon behind it as targets. Data of less than two years cannot tell what a time of the year means: there each lane
is moved by a random number of whole weeks, so that the model does not learn the dates by heart.

Knows nothing of the model, of the loss or of validation.

Shapes: B lanes, T steps of the chunk, D horizon steps, C covariates, S static numbers, G static categories.
"""

import itertools
import random
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from forecaster.config import TrainingConfig
from forecaster.data.windows import Series
from forecaster.model.covariates import CovariateSpec, attributes_of
from forecaster.model.inputs.observations import Observations

_WEEK_US = 7 * 86_400_000_000
_YEARS_TO_LEARN = 2


class Chunk(NamedTuple):
    """T steps of B lanes with what follows.

    Args:
        first: whether lanes start here, so that the carried state is a fresh one.
        observations: [B, T].
        future: the values of the T + D steps from the chunk's first on, NaN where missing, float64 [B, T + D].
        units: MASE's denominator of each lane's series, float64 [B].
        covariates: those of the T + D steps, NaN where missing, float64 [B, T + D, C].
        numbers: static numbers, float64 [B, S].
        codes: static categories, int64 [B, G].
        stops: the step of the chunk that is the last one known of its series, int64 [B].
        ended: whether the series is over with it, bool [B].
    """

    first: bool
    observations: Observations
    future: Tensor
    units: Tensor
    covariates: Tensor
    numbers: Tensor
    codes: Tensor
    stops: Tensor
    ended: Tensor


class _Lane(NamedTuple):
    series: int
    start: int
    stop: int
    shift_us: int


class Cut(NamedTuple):
    """How series become lanes and chunks.

    Args:
        lane_steps: steps of a lane; a shorter series is one lane.
        chunk_steps: T; None takes whole lanes.
        lanes_per_batch: B at the most.
        min_chunks: of an epoch; if one pass over the series gives fewer, there are several, each cut anew.
    """

    lane_steps: int
    chunk_steps: int | None
    lanes_per_batch: int
    min_chunks: int


class LaneDataset(IterableDataset[Chunk]):
    """One epoch of chunks.

    Args:
        series: the training part, each on its regular grid; one or more.
        units: MASE's denominator of each series.
        horizon: D.
        spec: of the covariates.
        cut: how long lanes and chunks are, and how many there are.
        seed: of the cuts and the order; the same seed gives the same epoch.
        mine: ids of the series whose lanes are kept, of batches that are the same for everybody; None keeps all. A
            batch with none of them becomes a lane without a value, so that all have the same number of chunks.
    """

    def __init__(
        self,
        series: Sequence[Series],
        units: Sequence[float],
        *,
        horizon: int,
        spec: CovariateSpec,
        cut: Cut,
        seed: int,
        mine: Collection[str] | None = None,
    ) -> None:
        self._series, self._units, self._spec, self._mine = series, units, spec, mine
        self._horizon, self._chunk_steps = horizon, cut.chunk_steps
        span_us = max(one_series.end_us for one_series in series) - min(one_series.start_us for one_series in series)
        self._years_weeks = 52 if span_us < _YEARS_TO_LEARN * 52 * _WEEK_US else 1
        self._batches: list[list[_Lane]] = []
        rng = random.Random(seed)
        while len(self) < cut.min_chunks:
            self._batches += self._one_pass(cut.lane_steps, cut.lanes_per_batch, rng)

    def _one_pass(self, lane_steps: int, lanes_per_batch: int, rng: random.Random) -> list[list[_Lane]]:
        lanes = [
            _Lane(index, start, stop, rng.randrange(self._years_weeks) * _WEEK_US)
            for index, one_series in enumerate(self._series)
            for start, stop in _cut(len(one_series), lane_steps, rng)
        ]
        rng.shuffle(lanes)
        lanes.sort(key=lambda lane: lane.stop - lane.start)  # equal lengths side by side: little padding
        count = -(-len(lanes) // lanes_per_batch)
        edges = [len(lanes) * i // count for i in range(count + 1)]
        batches = [lanes[low:high] for low, high in itertools.pairwise(edges)]
        rng.shuffle(batches)
        return batches

    def __len__(self) -> int:
        return sum(-(-_longest(batch) // (self._chunk_steps or _longest(batch))) for batch in self._batches)

    def __iter__(self) -> Iterator[Chunk]:
        for whole in self._batches:
            batch = [lane for lane in whole if self._is_mine(lane)] or whole[:1]
            values, covariates, time_us = self._side_by_side(batch, _longest(whole))
            units = torch.tensor([self._units[lane.series] for lane in batch], dtype=torch.float64)
            owners = [self._series[lane.series] for lane in batch]
            stops = torch.tensor(
                [len(one_series) - 1 - lane.start for one_series, lane in zip(owners, batch, strict=True)]
            )
            ended = torch.tensor([owner.ended for owner in owners])
            numbers, codes = attributes_of(owners, self._spec)
            steps = time_us.shape[1]
            chunk_steps = self._chunk_steps or steps
            for start in range(0, steps, chunk_steps):
                now = slice(start, min(start + chunk_steps, steps))
                ahead = slice(start, now.stop + self._horizon)
                beside = covariates[:, now] if covariates.shape[-1] else None
                observations = Observations.of(time_us[:, now], values[:, now], beside)
                targets = (values[:, ahead], units, covariates[:, ahead])
                yield Chunk(start == 0, observations, *targets, numbers, codes, stops - start, ended)

    def _is_mine(self, lane: _Lane) -> bool:
        return self._mine is None or self._series[lane.series].unique_id in self._mine

    def _side_by_side(self, batch: Sequence[_Lane], steps: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the lanes' values and covariates with the horizon behind them, NaN past their end, and their times."""
        values = np.full((len(batch), steps + self._horizon), np.nan)
        covariates = np.full((*values.shape, len(self._spec.dynamic)), np.nan)
        time_us = np.empty((len(batch), steps), dtype=np.int64)
        for row, lane in enumerate(batch):
            one_series = self._series[lane.series]
            seen = slice(lane.start, lane.stop + self._horizon if self._is_mine(lane) else lane.start)
            values[row, : len(one_series.values[seen])] = one_series.values[seen]
            if self._spec.dynamic:
                covariates[row, : len(one_series.values[seen])] = one_series.dynamic[seen]
            time_us[row] = one_series.grid.time(one_series.start_us + lane.shift_us, lane.start + np.arange(steps))
        return torch.from_numpy(values), torch.from_numpy(covariates), torch.from_numpy(time_us)


def _cut(length: int, lane_steps: int, rng: random.Random) -> Iterator[tuple[int, int]]:
    """Yield the first and the end of lanes that cover most of a series: evenly spread, each moved by chance."""
    if length <= lane_steps:
        yield 0, length
        return
    count = round(length / lane_steps)
    room = length - lane_steps  # the last start
    for index in range(count):
        start = rng.randint(room * index // count, room * (index + 1) // count)
        yield start, start + lane_steps


def _longest(batch: Sequence[_Lane]) -> int:
    return max(lane.stop - lane.start for lane in batch)


class SeriesDataModule(pl.LightningDataModule):
    """Feeds a new cut of the training part every epoch; validation is one marker batch (see the module).

    Args:
        series: the training part.
        units: MASE's denominator of each series.
        config: the training configuration.
        horizon: D.
        spec: of the covariates.
        lane_steps: steps of a lane.
        mine: ids of the series that this process learns from, None for all.
    """

    def __init__(
        self,
        series: Sequence[Series],
        units: Sequence[float],
        config: TrainingConfig,
        *,
        horizon: int,
        spec: CovariateSpec,
        lane_steps: int,
        mine: Collection[str] | None = None,
    ) -> None:
        super().__init__()
        self._mine = mine
        self._series, self._units, self._config, self._spec = series, units, config, spec
        self._horizon, self._lane_steps = horizon, lane_steps

    def epoch(self, index: int) -> LaneDataset:
        """Return the chunks of epoch `index`; the same every time."""
        return LaneDataset(
            self._series,
            self._units,
            horizon=self._horizon,
            spec=self._spec,
            cut=Cut(
                self._lane_steps, self._config.chunk_steps, self._config.series_per_batch, self._config.min_updates
            ),
            seed=self._config.seed * 1_000_003 + index,
            mine=self._mine,
        )

    def train_dataloader(self) -> DataLoader[Chunk]:
        """Return the present epoch's chunks; the trainer asks anew every epoch."""
        index = self.trainer.current_epoch if self.trainer is not None else 0
        return DataLoader(self.epoch(index), batch_size=None)

    def val_dataloader(self) -> DataLoader[int]:
        """Return one marker: the module evaluates by rolling origins itself."""
        return DataLoader([0], batch_size=None)  # type: ignore[arg-type]
