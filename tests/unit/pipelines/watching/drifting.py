"""Streams with and without a shift, a model trained on their like, and the real engine's live scores of them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from forecaster.config import Config, DataConfig, ModelConfig, TrainingConfig
from forecaster.data.windows import Series
from forecaster.model.bundle import Bundle
from forecaster.serving.calibration.live_scores import LiveReport
from forecaster.serving.engine.engine import Engine
from forecaster.serving.storage.records import Columns
from forecaster.serving.storage.volatile import VolatileStorage
from forecaster.serving.work.forecasting import ForecastWork
from forecaster.serving.work.observing import ObserveWork
from forecaster.serving.work.series import LiveScores
from forecaster.training.fit import fit
from pipelines.watching.drift import Reference

HOUR_US = 3_600_000_000
SEASON, HORIZON = 12, 4
Values = npt.NDArray[np.float64]


def stream(seed: tuple[int, ...], steps: int, shift_at: int | None = None) -> Values:
    """Return a season of 12 and autoregressive noise; from the shift on twice the noise, and another level."""
    noise = np.random.default_rng(seed).normal(size=steps)
    at = np.arange(steps)
    after = at >= (steps if shift_at is None else shift_at)
    noise[after] *= 2.0
    carried = np.zeros(steps)
    for t in range(steps):
        carried[t] = 0.7 * carried[t - 1] + noise[t] if t else noise[t]
    return 50.0 + 2.0 * np.sin(at * 2.0 * np.pi / SEASON) + carried + 6.0 * after


def trained() -> tuple[Bundle, Reference]:
    """Return a small model, trained on stationary streams, and what its backtest says.

    Its level and scale forget over 168 steps, which is what hourly data with their week get by default.
    """
    model = ModelConfig(
        hidden_size=8, num_layers=1, decoder_size=8, horizon=HORIZON, season_lengths=(SEASON,), timescale=168
    )
    training = TrainingConfig(max_epochs=4, min_updates=30, chunk_steps=24, validation_steps=96, threads=1)
    config = Config(data=DataConfig(frequency="1h"), model=model, training=training)
    series = [Series(f"t{k}", 0, HOUR_US, stream((99, k), 400)) for k in range(8)]
    result = fit(series, config)
    backtest = result.backtest
    return result.bundle, Reference(dict(enumerate(backtest.mase_by_horizon, start=1)), dict(backtest.coverage))


@dataclass(frozen=True, slots=True)
class Groups:
    """Groups of series side by side in one engine, each as if it were a server's fleet of its own.

    Args:
        bundle: of the model.
        values: of each group and series, [G, S, T].
    """

    bundle: Bundle
    values: Values

    def looks(self, first: int, every: int) -> Iterator[tuple[int, list[tuple[LiveScores, ...]]]]:
        """Observe everything, forecast before every step, and yield the live scores of each group now and then."""
        groups, size, steps = self.values.shape
        flat = self.values.reshape(groups * size, steps)
        ids, series = tuple(f"s{k}" for k in range(len(flat))), np.arange(len(flat), dtype=np.int32)
        engine = Engine(self.bundle, VolatileStorage(), max_resident=2**40)
        for step in range(steps):
            times = np.full(len(flat), step * HOUR_US, dtype=np.int64)
            engine.observe([ObserveWork(Columns(ids, series, times, flat[:, step].copy(), (), None), None)])
            engine.forecast([ForecastWork(ids, HORIZON, (0.1, 0.5, 0.9))])
            if step >= first and step % every == 0:
                scoring = engine.lanes.active.scoring
                assert scoring is not None
                whole = scoring.report(0, len(flat))
                yield step, [_part(whole, slice(k * size, (k + 1) * size)).mean() for k in range(groups)]


def _part(whole: LiveReport, rows: slice) -> LiveReport:
    parts = (whole.scored, whole.mase, whole.bias, whole.coverage, whole.calibrated_coverage)
    return LiveReport(whole.horizons, whole.nominal, *(part[rows] for part in parts))
