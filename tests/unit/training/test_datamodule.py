"""Lanes and chunks: what is fed is the series, in order, once, with its future behind it."""

import numpy as np
import pytest
import torch

from forecaster.config import TrainingConfig
from forecaster.data.windows import Series
from forecaster.model.covariates import CovariateSpec
from forecaster.training.datamodule import Chunk, Cut, LaneDataset, SeriesDataModule

HOUR = 3_600_000_000
WEEK = 168 * HOUR
HORIZON = 5


def make_series() -> list[Series]:
    """The value tells series and step: 1000 · series + step."""
    lengths = (400, 130, 60, 300)
    return [Series(str(i), 7 * i * HOUR, HOUR, 1000.0 * i + np.arange(n)) for i, n in enumerate(lengths)]


def make_epoch(seed: int = 1, lanes_per_batch: int = 3) -> LaneDataset:
    return LaneDataset(
        make_series(),
        [1.0, 2.0, 3.0, 4.0],
        horizon=HORIZON,
        spec=CovariateSpec(),
        cut=Cut(lane_steps=100, chunk_steps=32, lanes_per_batch=lanes_per_batch, min_chunks=1),
        seed=seed,
    )


def test_a_chunk_holds_consecutive_values_with_their_times_and_what_follows() -> None:
    lengths = [len(one) for one in make_series()]
    for chunk in make_epoch():
        steps = chunk.observations.values.shape[1]
        assert chunk.future.shape == (len(chunk.units), steps + HORIZON)
        for row, unit in enumerate(chunk.units.tolist()):
            future, observed = chunk.future[row], chunk.observations.observed[row]
            series = int(unit) - 1
            known = future[torch.isfinite(future)]
            if not len(known):  # a shorter lane beside longer ones is over
                continue
            torch.testing.assert_close(known.diff(), torch.ones(len(known) - 1).double())
            torch.testing.assert_close(chunk.observations.values[row, observed], future[:steps][observed])
            step = known[0] - 1000 * series
            shift = chunk.observations.time_us[row, 0] - (7 * series + step) * HOUR
            assert shift in [week * WEEK for week in range(52)]  # moved within the year, the hour and day are kept
            if len(known) < steps + HORIZON:  # nothing is missing but past the series' end
                assert known[-1] == 1000 * series + lengths[series] - 1


def test_a_lane_goes_on_from_chunk_to_chunk() -> None:
    last: Chunk | None = None
    for chunk in make_epoch():
        if not chunk.first:
            assert last is not None
            torch.testing.assert_close(last.units, chunk.units)
            assert (chunk.observations.time_us[:, 0] == last.observations.time_us[:, -1] + HOUR).all()
            overlap = last.future[:, -HORIZON:][:, : chunk.future.shape[1]]
            torch.testing.assert_close(overlap, chunk.future[:, : overlap.shape[1]], equal_nan=True)
        last = chunk


def test_lanes_are_equally_long_and_cover_most_of_a_series() -> None:
    for seed in range(5):
        steps = [0] * 4
        for chunk in make_epoch(seed):
            for row, unit in enumerate(chunk.units.tolist()):
                steps[int(unit) - 1] += int(chunk.observations.observed[row].sum())
        assert steps[0] == 400
        assert steps[1] in range(100, 100 + HORIZON + 1)  # one lane; the values behind it count as its future
        assert steps[2] == 60
        assert steps[3] == 300


def test_the_seed_makes_the_epoch() -> None:
    def starts(seed: int) -> list[int]:
        return [int(chunk.observations.time_us[0, 0]) for chunk in make_epoch(seed)]

    assert starts(3) == starts(3)
    assert starts(3) != starts(4)


@pytest.mark.parametrize("lanes_per_batch", [1, 2, 3, 50])
def test_the_length_is_the_number_of_chunks(lanes_per_batch: int) -> None:
    epoch = make_epoch(lanes_per_batch=lanes_per_batch)
    assert len(epoch) == len(list(epoch))
    assert max(len(chunk.units) for chunk in epoch) <= lanes_per_batch


def test_each_epoch_is_cut_anew_and_each_again_the_same() -> None:
    data = SeriesDataModule(
        make_series(),
        [1.0] * 4,
        TrainingConfig(chunk_steps=32, min_updates=1),
        horizon=HORIZON,
        spec=CovariateSpec(),
        lane_steps=100,
    )
    first, again, second = ([chunk.observations.time_us[:, 0].tolist() for chunk in data.epoch(i)] for i in (0, 0, 1))
    assert first == again
    assert first != second


def test_few_series_are_passed_over_and_over_each_time_cut_anew() -> None:
    series = [Series("a", 0, HOUR, np.arange(130.0))]
    cut = Cut(lane_steps=100, chunk_steps=32, lanes_per_batch=4, min_chunks=10)
    epoch = LaneDataset(series, [1.0], horizon=HORIZON, spec=CovariateSpec(), cut=cut, seed=0)
    starts = [int(chunk.observations.time_us[0, 0]) for chunk in epoch if chunk.first]
    assert len(epoch) == len(list(epoch)) == 12  # three passes of four chunks
    assert len(set(starts)) == 3
