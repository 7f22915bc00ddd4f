"""The loss along the streaming pass against a plain loop, and the learning rate's schedule."""

import math

import numpy as np
import pytest
import torch

from forecaster.config import ModelConfig
from forecaster.data.windows import Series
from forecaster.evaluation.rolling import forecast
from forecaster.model.covariates import CovariateSpec
from forecaster.model.seq2seq import Seq2Seq
from forecaster.training.datamodule import Cut, LaneDataset
from forecaster.training.module import one_cycle
from forecaster.training.objective import chunk_loss

HOUR = 3_600_000_000


def test_loss_equals_plain_loops_over_chunks_lanes_origins_and_steps() -> None:
    config = ModelConfig(
        hidden_size=5, num_layers=1, decoder_size=6, horizon=3, season_lengths=(4,), quantile_levels=(0.2, 0.5, 0.9)
    )
    torch.manual_seed(0)
    model = Seq2Seq(config.resolve(HOUR), HOUR).eval()  # no dropout
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    rng = np.random.default_rng(0)
    values = rng.normal(10, 2, size=(2, 30))
    values[rng.random(values.shape) < 0.2] = np.nan
    series = [Series("a", 0, HOUR, values[0]), Series("b", 5 * HOUR, HOUR, values[1, :23])]
    units = {"a": 2.0, "b": 0.5}
    cut = Cut(lane_steps=100, chunk_steps=11, lanes_per_batch=2, min_chunks=1)
    data = LaneDataset(series, list(units.values()), horizon=3, spec=CovariateSpec(), cut=cut, seed=0)
    state, total, count = model.initial_state(2), 0.0, 0
    first = next(iter(data))
    start_us = dict(zip(first.units.tolist(), first.observations.time_us[:, 0].tolist(), strict=True))
    for chunk in data:
        at = torch.arange(1, chunk.observations.values.shape[1], 4)
        loss = chunk_loss(model, chunk, state, at)
        state, total, count = loss.state, total + loss.total.item(), count + loss.count

    expected, pairs = 0.0, 0
    for one in series:
        for last in [start + offset for start in (0, 11, 22) for offset in (1, 5, 9)]:
            known = one.values[: last + 1]
            if last >= 30 or np.isfinite(known).sum() < 4:
                continue
            quantiles = forecast(model, [Series("", start_us[units[one.unique_id]], HOUR, known)], 3)[0].tolist()
            for ahead, row in enumerate(quantiles, start=1):
                if last + ahead < len(one) and math.isfinite(one.values[last + ahead]):
                    y = one.values[last + ahead]
                    losses = [max(p * (y - q), (p - 1) * (y - q)) for p, q in zip((0.2, 0.5, 0.9), row, strict=True)]
                    expected += sum(losses) / 3 / units[one.unique_id]
                    pairs += 1
    assert count == pairs > 20
    assert total == pytest.approx(expected, rel=1e-4)


def test_one_cycle_warms_up_and_comes_down() -> None:
    rates = [one_cycle(i / 1000) for i in range(1001)]
    assert rates[0] == pytest.approx(0.02)
    assert max(rates) == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.02)
    peak = rates.index(max(rates))
    assert peak == 20
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
