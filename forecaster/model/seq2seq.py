"""The forecaster: `initial_state`, `step`, `scan` and `decode`, pure functions over an explicit state.

`scan` over T steps equals T times `step`, whatever the chunks: training, backtest and serving are the same
computation. Steps of a batch are consecutive grid points of each series; who calls makes sure of that.

Shapes: B series, T steps, N origins, D horizon steps, M memory, S seasonal lags, H hidden, Q quantiles.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from forecaster.config import ModelConfig
from forecaster.data.features import calendar_features, calendar_size
from forecaster.model import memory as ring_memory
from forecaster.model.cells import RecurrentStack
from forecaster.model.decoder import DirectDecoder, Origins
from forecaster.model.memory import Extended
from forecaster.model.normalizer import Statistics, normalize, soft_clip, statistics, width
from forecaster.model.state import State, StateSpec, TensorSpec

_MIN_MEMORY = 24  # values kept for recognising a retry even where no season is long


class Observations(NamedTuple):
    """T consecutive steps of B series.

    Args:
        time_us: microseconds since the Unix epoch, int64 [B, T].
        values: float64 [B, T]; anything finite where not observed.
        observed: bool [B, T].
    """

    time_us: Tensor
    values: Tensor
    observed: Tensor


class Encoded(NamedTuple):
    """What a scan knows after each of its steps; `Seq2Seq.origins_of` turns steps of it into origins.

    Args:
        context: float32 [B, T, H].
        statistics: [B, T] each.
        extended: the memory before the scan and its values, [B, M + T].
        time_us: int64 [B, T].
    """

    context: Tensor
    statistics: Statistics
    extended: Extended
    time_us: Tensor


class Seq2Seq(nn.Module):
    """A recurrent encoder-decoder for series on a fixed grid.

    Args:
        config: the architecture, resolved (see `ModelConfig.resolve`).
        step_us: the grid's time step, microseconds.
    """

    def __init__(self, config: ModelConfig, step_us: int) -> None:
        super().__init__()
        if config.season_lengths is None or config.timescale is None:
            config = config.resolve(step_us)
        self.config = config
        self.step_us = step_us
        seasons = config.season_lengths or ()
        self.lags = _seasonal_lags(seasons)
        self.memory = max((*self.lags, _MIN_MEMORY))
        calendar = calendar_size(step_us) if config.calendar else 0
        self.encoder = RecurrentStack(
            cell=config.cell,
            input_size=4 + 5 * len(self.lags) + calendar,
            hidden_size=config.hidden_size,
            num_layers=config.num_layers,
            dropout=config.dropout,
            initialization=config.initialization,
        )
        self.decoder = DirectDecoder(
            context_size=config.hidden_size,
            decoder_size=config.decoder_size,
            horizon=config.horizon,
            num_lags=len(self.lags),
            calendar_size=calendar,
            quantile_levels=config.quantile_levels,
        )
        self.state_spec = StateSpec(
            [
                *self.encoder.state_spec(),
                TensorSpec("normalizer", (width(1 + len(self.lags)),), torch.float64),
                TensorSpec("ring", (self.memory,), torch.float64),
                TensorSpec("ring_observed", (self.memory,), torch.bool),
                TensorSpec("position", (), torch.int64),
                TensorSpec("observed_count", (), torch.int64),
                TensorSpec("time_us", (), torch.int64),
            ]
        )

    def initial_state(self, n: int) -> State:
        """Return the state of `n` fresh series."""
        return self.state_spec.zeros(n, next(self.parameters()).device)

    def step(self, state: State, observation: Observations) -> State:
        """Return the state after one step; the fields of `observation` are [B]."""
        one = Observations(*(field[:, None] for field in observation))
        return self.scan(state, one)[0]

    def scan(self, state: State, observations: Observations, lengths: Tensor | None = None) -> tuple[State, Encoded]:
        """Advance by T steps at once.

        Args:
            state: B series.
            observations: [B, T].
            lengths: steps of each series, int64 [B], 1 to T; left out, all T. What lies behind is ignored.

        Returns:
            The state after each series' last step, and what was known after every step.
        """
        n, steps = observations.values.shape
        position = state["position"]
        past = ring_memory.unroll(state["ring"], state["ring_observed"], position)
        extended = ring_memory.extend(past, observations.values, observations.observed)
        timescale = self.config.timescale
        assert timescale is not None
        changes = self._changes(extended, steps)
        sums, stats = normalize(state["normalizer"], observations.values, observations.observed, changes, timescale)
        recurrent, context = self.encoder(state, self._inputs(observations, extended, stats), lengths)
        ends = torch.full_like(position, steps) if lengths is None else lengths.to(position)
        ring = ring_memory.roll_up(extended, position, ends, self.memory)
        last = (ends - 1)[:, None]
        counts = observations.observed.cumsum(dim=1)
        new: State = {
            **recurrent,
            "normalizer": sums.gather(1, last[..., None].expand(n, 1, sums.shape[-1]))[:, 0],
            "ring": ring.values,
            "ring_observed": ring.observed,
            "position": position + ends,
            "observed_count": state["observed_count"] + counts.gather(1, last)[:, 0],
            "time_us": observations.time_us.gather(1, last)[:, 0],
        }
        return new, Encoded(context, stats, extended, observations.time_us)

    def decode(self, state: State, horizon: int) -> Tensor:
        """Forecast `horizon` steps from the present state, which stays as it is.

        Returns:
            The trained quantiles in the series' own units, float64 [B, D, Q].
        """
        ring = ring_memory.unroll(state["ring"], state["ring_observed"], state["position"])
        known = Encoded(
            self.encoder.summary(state)[:, None],
            Statistics(*(x[:, None] for x in statistics(state["normalizer"]))),
            Extended(ring.values, ring.observed),
            state["time_us"][:, None],
        )
        # In time order the ring ends with the latest step, which a scan has at M + t: here t = -1 + 0.
        return self.quantiles(self._origins(known, torch.tensor([0]), horizon, offset=-1))

    def origins_of(self, encoded: Encoded, steps: Tensor, horizon: int) -> Origins:
        """Return the origins just after `steps` (int64 [K]) of a scan, N = B · K, series by series."""
        return self._origins(encoded, steps, horizon, offset=0)

    def quantiles_after(self, encoded: Any, steps: Tensor, horizon: int) -> Tensor:
        """Return the forecasts just after `steps` (int64 [K]) of a scan, float64 [N, D, Q]; see `origins_of`."""
        return self.quantiles(self.origins_of(encoded, steps, horizon))

    def decode_scaled(self, origins: Origins) -> Tensor:
        """Return quantiles in units of the origins around the level, float32 [N, D, Q]."""
        scaled: Tensor = self.decoder(origins)
        return scaled

    def quantiles(self, origins: Origins) -> Tensor:
        """Return quantiles in the series' own units, float64 [N, D, Q]."""
        level, unit = origins.statistics.level, origins.unit
        return level[:, None, None] + unit[:, None, None] * self.decode_scaled(origins).double()

    def _changes(self, extended: Extended, steps: int) -> Tensor:
        """Return the absolute changes over one step and over each lag, NaN where unknown, float64 [B, T, C]."""
        now = slice(self.memory, self.memory + steps)
        columns = []
        for lag in (1, *self.lags):
            then = slice(self.memory - lag, self.memory - lag + steps)
            known = extended.observed[:, now] & extended.observed[:, then]
            change = (extended.values[:, now] - extended.values[:, then]).abs()
            columns.append(torch.where(known, change, math.nan))
        return torch.stack(columns, dim=-1)

    def _inputs(self, observations: Observations, extended: Extended, stats: Statistics) -> Tensor:
        """Return the encoder's inputs [B, T, I]: value, mask, relative scale, lags with masks, calendar."""
        steps = observations.values.shape[1]
        level, scale = stats.level, stats.scale
        columns = [(observations.values - level) / scale, observations.observed.double()]
        columns[0] = torch.where(observations.observed, columns[0], 0.0)
        for lag in self.lags:
            for back in (lag - 1, lag):  # the same season as the next step, and as this one
                window = slice(self.memory - back, self.memory - back + steps)
                seen = extended.observed[:, window]
                columns += [torch.where(seen, (extended.values[:, window] - level) / scale, 0.0), seen.double()]
        columns.append(torch.log(scale / (scale + level.abs())))
        columns += torch.log(stats.changes / scale[..., None]).unbind(-1)
        values = soft_clip(torch.stack(columns, dim=-1).float())
        return torch.cat([values, self._calendar(observations.time_us)], dim=-1)

    def _calendar(self, time_us: Tensor) -> Tensor:
        """Return the calendar features of times, float32 [..., F]."""
        if not self.config.calendar:
            return torch.zeros((*time_us.shape, 0), device=time_us.device)
        return calendar_features(time_us, self.step_us)

    def _origins(self, encoded: Encoded, steps: Tensor, horizon: int, offset: int) -> Origins:
        device = encoded.time_us.device
        steps = steps.to(device)
        n = encoded.time_us.shape[0] * steps.shape[0]
        ahead = torch.arange(1, horizon + 1, device=device)
        lags = torch.tensor(self.lags, dtype=torch.int64, device=device)
        # The newest value that is a whole number of lags before origin + ahead and not after the origin.
        back = lags * torch.div(ahead[:, None] + lags - 1, lags, rounding_mode="floor") - ahead[:, None]
        index = (self.memory + offset + steps)[:, None, None] - back
        shape = (n, horizon, len(self.lags))
        times = encoded.time_us[:, steps].reshape(n, 1) + ahead * self.step_us
        return Origins(
            encoded.context[:, steps].flatten(0, 1),
            Statistics(*(x[:, steps].flatten(0, 1) for x in encoded.statistics)),
            encoded.extended.values[:, index].reshape(shape),
            encoded.extended.observed[:, index].reshape(shape),
            self._calendar(times),
        )


def _seasonal_lags(seasons: tuple[int, ...]) -> tuple[int, ...]:
    """Return the lags to look back by: every season, and twice the shortest."""
    return tuple(sorted({*seasons, 2 * seasons[0]})) if seasons else ()
