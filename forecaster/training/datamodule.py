"""Lanes of series, cut into chunks: what one update of the weights sees.

A long series is cut into lanes at a new random offset every epoch, so that one batch holds different seasons of
the year; each lane starts from a fresh state and is walked chunk by chunk. A chunk brings the horizon behind
it as targets.

Shapes: B lanes, T steps of the chunk, D horizon steps.
"""

import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from forecaster.config import TrainingConfig
from forecaster.data.windows import Series
from forecaster.model.seq2seq import Observations


class Chunk(NamedTuple):
    """T steps of B lanes with what follows.

    Args:
        first: whether lanes start here, so that the carried state is a fresh one.
        observations: [B, T].
        future: the values of the T + D steps from the chunk's first on, NaN where missing, float64 [B, T + D].
        units: MASE's denominator of each lane's series, float64 [B].
    """

    first: bool
    observations: Observations
    future: Tensor
    units: Tensor


class _Lane(NamedTuple):
    series: int
    start: int
    stop: int


class LaneDataset(IterableDataset[Chunk]):
    """One epoch of chunks.

    Args:
        series: the training part, each on its regular grid.
        units: MASE's denominator of each series.
        horizon: D.
        lane_steps: steps of a lane.
        chunk_steps: T.
        lanes_per_batch: B at the most.
        seed: of the cuts and the order; the same seed gives the same epoch.
    """

    def __init__(
        self,
        series: Sequence[Series],
        *,
        units: Sequence[float],
        step_us: int,
        horizon: int,
        lane_steps: int,
        chunk_steps: int,
        lanes_per_batch: int,
        seed: int,
    ) -> None:
        self._series, self._units, self._step_us = series, units, step_us
        self._horizon, self._chunk_steps = horizon, chunk_steps
        rng = random.Random(seed)
        lanes = [lane for index in range(len(series)) for lane in self._cut(index, lane_steps, rng)]
        rng.shuffle(lanes)
        self._batches = [lanes[i : i + lanes_per_batch] for i in range(0, len(lanes), lanes_per_batch)]

    def _cut(self, index: int, lane_steps: int, rng: random.Random) -> Iterator[_Lane]:
        length = len(self._series[index].values)
        offset = rng.randrange(lane_steps) if length > lane_steps else lane_steps
        edges = [0, *range(offset, length, lane_steps), length]
        for start, stop in zip(edges, edges[1:], strict=False):
            if stop - start > self._horizon:
                yield _Lane(index, start, stop)

    def __len__(self) -> int:
        return sum(-(-self._longest(batch) // self._chunk_steps) for batch in self._batches)

    def __iter__(self) -> Iterator[Chunk]:
        for batch in self._batches:
            steps = self._longest(batch)
            padded = np.full((len(batch), steps + self._horizon), np.nan)
            start_us = np.empty(len(batch), dtype=np.int64)
            for row, lane in enumerate(batch):
                one = self._series[lane.series]
                part = one.values[lane.start : lane.stop]
                padded[row, : len(part)] = part
                start_us[row] = one.start_us + lane.start * self._step_us
            values = torch.from_numpy(padded)
            times = torch.from_numpy(start_us)[:, None] + torch.arange(steps) * self._step_us
            units = torch.tensor([self._units[lane.series] for lane in batch], dtype=torch.float64)
            for begin in range(0, steps, self._chunk_steps):
                end = min(begin + self._chunk_steps, steps)
                chunk = values[:, begin:end]
                seen = torch.isfinite(chunk)
                observations = Observations(times[:, begin:end], chunk.nan_to_num(0.0), seen)
                yield Chunk(begin == 0, observations, values[:, begin : end + self._horizon], units)

    @staticmethod
    def _longest(batch: Sequence[_Lane]) -> int:
        return max(lane.stop - lane.start for lane in batch)


class SeriesDataModule(pl.LightningDataModule):
    """Feeds a new cut of the training part every epoch; validation is one marker batch (see the module).

    Args:
        series: the training part.
        units: MASE's denominator of each series.
        config: the training configuration.
        step_us: the time step.
        horizon: D.
        memory: the longest look-back of the model, which sets the lanes' length.
    """

    def __init__(
        self,
        series: Sequence[Series],
        units: Sequence[float],
        config: TrainingConfig,
        *,
        step_us: int,
        horizon: int,
        memory: int,
    ) -> None:
        super().__init__()
        self._series, self._units, self._config = series, units, config
        self._step_us, self._horizon = step_us, horizon
        self._lane_steps = max(8 * memory, 4 * config.chunk_steps)

    def epoch(self, index: int) -> LaneDataset:
        """Return the chunks of epoch `index`."""
        return LaneDataset(
            self._series,
            units=self._units,
            step_us=self._step_us,
            horizon=self._horizon,
            lane_steps=self._lane_steps,
            chunk_steps=self._config.chunk_steps,
            lanes_per_batch=self._config.series_per_batch,
            seed=self._config.seed * 1_000_003 + index,
        )

    def train_dataloader(self) -> DataLoader[Chunk]:
        """Return the present epoch's chunks; the trainer asks anew every epoch."""
        index = self.trainer.current_epoch if self.trainer is not None else 0
        return DataLoader(self.epoch(index), batch_size=None)

    def val_dataloader(self) -> DataLoader[int]:
        """Return one marker: the module evaluates by rolling origins itself."""
        return DataLoader([0], batch_size=None)  # type: ignore[arg-type]
