"""The forecaster: `initial_state`, `step`, `scan` and `decode`, pure functions over an explicit state.

`scan` over T steps equals T times `step`, whatever the chunks: training, backtest and serving are the same
computation. Steps of a batch are consecutive grid points of each series; who calls makes sure of that.

Shapes: B series, T steps, N origins, D horizon steps, M memory, S seasonal lags, K attended outputs, H hidden,
Q quantiles, F known-future covariates.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from forecaster.config import ModelConfig
from forecaster.data.features import calendar_features, calendar_size
from forecaster.data.grid import Grid
from forecaster.errors import UnsupportedError
from forecaster.model.cells import make_stack
from forecaster.model.covariates import NO_COVARIATES, CovariateInputs, CovariateSpec
from forecaster.model.decoders.attention import recent_outputs
from forecaster.model.decoders.beam import beam_search
from forecaster.model.decoders.decoder import Decoded, DecoderInputs, Sizes
from forecaster.model.decoders.direct_decoder import DirectDecoder
from forecaster.model.decoders.recurrent_decoder import RecurrentDecoder
from forecaster.model.decoders.sampling import Paths, quantiles_of, sample_paths
from forecaster.model.inputs import memory as ring_memory
from forecaster.model.inputs.inputs import memory_steps, seasonal_lags, steps_back, value_inputs, value_size
from forecaster.model.inputs.memory import Extended
from forecaster.model.inputs.normalizer import Statistics, soft_clip, without_traces
from forecaster.model.inputs.observations import Encoded, Observations
from forecaster.model.inputs.running_statistics import RunningStatistics
from forecaster.model.output_recurrence import OutputRecurrentStack
from forecaster.model.state import State, StateSpec, TensorSpec


class Prediction(NamedTuple):
    """What is to come.

    Args:
        quantiles: at the configured levels, in the series' own units, float64 [N, D, Q].
        ended: the probability that the series has ended before a step, float64 [N, D]; zeros if series do not end.
    """

    quantiles: Tensor
    ended: Tensor


class Seq2Seq(nn.Module):
    """A recurrent encoder-decoder for series on a fixed grid.

    Args:
        config: the architecture, resolved (see `ModelConfig.resolve`).
        step_us: the grid's time step, microseconds.
        covariates: what else is known of the series.
    """

    def __init__(self, config: ModelConfig, step_us: int, covariates: CovariateSpec = NO_COVARIATES) -> None:
        super().__init__()
        config = config.resolve(step_us)
        self.config, self.step_us, self.covariates = config, step_us, covariates
        assert config.timescale is not None
        self.lags = seasonal_lags(config.season_lengths or ())
        self.memory = memory_steps(config.season_lengths or ())
        robust = config.statistics == "robust"
        self.running = RunningStatistics(config.timescale, self.lags, self.memory, robust=robust)
        self.attended = 0 if config.attention == "none" else config.attention_steps
        calendar = calendar_size(step_us) if config.calendar else 0
        self.inputs = CovariateInputs(covariates)
        self.encoder = make_stack(
            config,
            input_size=value_size(self.lags) + calendar + self.inputs.dynamic_size + self.inputs.static_size,
            hidden_size=config.hidden_size,
            periods=config.layer_periods or (1,) * config.num_layers,
            dropout=config.dropout,
        )
        ahead = calendar + self.inputs.future_size
        sizes = Sizes(config.hidden_size, len(self.lags), ahead, self.inputs.static_size)
        make = RecurrentDecoder if config.decoder == "recurrent" else DirectDecoder
        self.decoder: RecurrentDecoder | DirectDecoder = make(config, sizes)
        attention = [TensorSpec("outputs", (self.attended, config.hidden_size), torch.float32)] if self.attended else []
        self.state_spec = StateSpec(
            [
                *self.encoder.state_spec(),
                *attention,
                TensorSpec("normalizer", (self.running.width,), torch.float64),
                TensorSpec("ring", (self.memory,), torch.float64),
                TensorSpec("ring_observed", (self.memory,), torch.bool),
                TensorSpec("position", (), torch.int64),
                TensorSpec("observed_count", (), torch.int64),
                TensorSpec("time_us", (), torch.int64),
                *self.inputs.state_spec(),
            ]
        )

    def initial_state(self, n: int) -> State:
        """Return the state of `n` fresh series."""
        return self.state_spec.zeros(n, next(self.parameters()).device)

    def step(self, state: State, observation: Observations) -> State:
        """Return the state after one step; the fields of `observation` are [B]."""
        return self.scan(state, observation.each(lambda field: field[:, None]))[0]

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
        sums, stats, believed = self.running.advance(state["normalizer"], extended)
        static = self.inputs.static(state)
        inputs = self._encoder_inputs(observations, extended, stats, believed, static)
        recurrent, context = self.encoder(state, inputs, lengths)
        ends = torch.full_like(position, steps) if lengths is None else lengths.to(position)
        ring = ring_memory.roll_up(extended, position, ends, self.memory)
        last = (ends - 1)[:, None]
        counts = observations.observed.cumsum(dim=1)
        outputs = torch.cat([state["outputs"], context], dim=1) if self.attended else context[:, :0]
        new: State = {
            **state,  # what never changes
            **recurrent,
            "normalizer": sums.gather(1, last[..., None].expand(n, 1, sums.shape[-1]))[:, 0],
            "ring": ring.values,
            "ring_observed": ring.observed,
            "position": position + ends,
            "observed_count": state["observed_count"] + counts.gather(1, last)[:, 0],
            "time_us": observations.time_us.gather(1, last)[:, 0],
        }
        if self.attended:
            window = ends[:, None] + torch.arange(self.attended, device=ends.device)
            new["outputs"] = outputs.gather(1, window[..., None].expand(-1, -1, outputs.shape[-1]))
        return new, Encoded(context, stats, extended, observations.time_us, static, outputs, position)

    def decode(self, state: State, horizon: int, future: Tensor | None = None) -> Tensor:
        """Forecast `horizon` steps from the present state, which stays as it is.

        Args:
            state: B series.
            horizon: D.
            future: known-future covariates of the steps ahead, raw, NaN where missing, float64 [B, D, F].

        Returns:
            The quantiles in the series' own units, float64 [B, D, Q].
        """
        return self.predict(state, horizon, future).quantiles

    def predict(self, state: State, horizon: int, future: Tensor | None = None) -> Prediction:
        """Forecast `horizon` steps with the probability that the series has ended before; see `decode`."""
        return self._predict(self.origins_at(state, horizon, future), horizon)

    def sample(self, state: State, horizon: int, paths: int, seeds: Tensor, future: Tensor | None = None) -> Paths:
        """Return P paths of each series drawn from the joint distribution, the same for the same seeds, int64 [B].

        Raises UnsupportedError unless the decoder is recurrent.
        """
        if not isinstance(self.decoder, RecurrentDecoder):
            raise UnsupportedError("this model forecasts each step for itself: paths need model.decoder=recurrent")
        origins = self.origins_at(state, horizon, future)
        found = sample_paths(self.decoder, origins, paths, seeds)
        return Paths(without_traces(found.values[..., :horizon]), found.lengths.clamp_max(horizon))

    def beam(
        self, state: State, horizon: int, *, paths: int, width: int, length_power: float, future: Tensor | None = None
    ) -> Paths:
        """Return the P most probable paths of bins of each series, see `beam_search`.

        Raises UnsupportedError unless the decoder is recurrent and the head categorical.
        """
        if not isinstance(self.decoder, RecurrentDecoder) or self.config.head != "categorical":
            raise UnsupportedError("beam search needs model.decoder=recurrent and model.head=categorical")
        origins = self.origins_at(state, horizon, future)
        found = beam_search(self.decoder, origins, horizon, paths=paths, width=width, length_power=length_power)
        return found._replace(values=without_traces(found.values))

    def origins_of(self, encoded: Encoded, steps: Tensor, horizon: int, future: Tensor | None = None) -> DecoderInputs:
        """Return the origins just after `steps` (int64 [K]) of a scan, N = B · K, series by series.

        Args:
            encoded: B series.
            steps: K of them.
            horizon: D.
            future: raw known-future covariates of the steps behind each origin, float64 [N, D, F].
        """
        return self._origins(encoded, steps, horizon, future, offset=0)

    def origins_at(self, state: State, horizon: int, future: Tensor | None = None) -> DecoderInputs:
        """Return the origins at the present states, N = B."""
        ring = ring_memory.unroll(state["ring"], state["ring_observed"], state["position"])
        context = self.encoder.summary(state)[:, None]
        known = Encoded(
            context,
            Statistics(*(x[:, None] for x in self.running.of(state["normalizer"]))),
            Extended(ring.values, ring.observed),
            state["time_us"][:, None],
            self.inputs.static(state),
            state["outputs"] if self.attended else context[:, :0],
            state["position"],
        )
        # In time order the ring ends with the latest step, which a scan has at M + t: here t = -1 + 0.
        return self._origins(known, torch.tensor([0]), horizon, future, offset=-1)

    def quantiles_after(self, encoded: Any, steps: Tensor, horizon: int, future: Tensor | None = None) -> Tensor:
        """Return the forecasts just after `steps` (int64 [K]) of a scan, float64 [N, D, Q]; see `origins_of`."""
        return self._predict(self.origins_of(encoded, steps, horizon, future), horizon).quantiles

    def quantiles(self, origins: DecoderInputs) -> Tensor:
        """Return the quantiles of every step of the origins, float64 [N, D, Q]."""
        return self._predict(origins, origins.seasonal.shape[1]).quantiles

    def teacher_forced(self, origins: DecoderInputs, target: Tensor) -> Decoded:
        """Return the distributions of all steps, given the actual values before each: float64 [N, D], NaN if missing.

        A direct decoder does not look at them.
        """
        if isinstance(self.decoder, RecurrentDecoder):
            return self.decoder(origins, target)  # type: ignore[no-any-return]
        return self.decoder(origins)  # type: ignore[no-any-return]

    def auxiliary_loss(self, encoded: Encoded, observations: Observations) -> Tensor:
        """Return what the encoder learns beside the forecasts: zero, or the readout's loss of an `output` cell."""
        if not isinstance(self.encoder, OutputRecurrentStack):
            return encoded.context.new_zeros(())
        stats = encoded.statistics
        values = soft_clip(((observations.values - stats.level) / stats.scale).float())
        return self.encoder.one_step_loss(encoded.context, values, observations.observed)

    def _predict(self, origins: DecoderInputs, horizon: int) -> Prediction:
        levels, frame, head = self.config.quantile_levels, origins.frame, self.decoder.readout.head
        if isinstance(self.decoder, RecurrentDecoder):
            seeds = torch.zeros(len(origins.context), dtype=torch.int64, device=origins.context.device)
            found = sample_paths(self.decoder, origins, self.config.sample_paths, seeds, even=True)
            at = torch.tensor(levels, dtype=torch.float64, device=found.values.device)
            quantiles = quantiles_of(found, at)
            steps = torch.arange(found.values.shape[-1], device=found.values.device)
            ended = (found.lengths[..., None] <= steps).double().mean(dim=1)
        else:
            decoded = self.decoder(origins)
            quantiles = head.quantiles(decoded.parameters, levels, frame)
            ended = torch.zeros(quantiles.shape[:2], dtype=torch.float64, device=quantiles.device)
            if decoded.ending is not None:
                going = torch.nn.functional.logsigmoid(-decoded.ending.double()).cumsum(dim=1).exp()
                ended[:, 1:] = 1 - going[:, :-1]
        return Prediction(without_traces(quantiles[:, :horizon]), ended[:, :horizon])

    def _encoder_inputs(
        self, observations: Observations, extended: Extended, stats: Statistics, believed: Tensor, static: Tensor
    ) -> Tensor:
        """Return the encoder's inputs, float32 [B, T, I]."""
        values = value_inputs(extended, believed, stats, self.lags, self.memory)
        parts = [values, self._calendar(observations.time_us)]
        if self.inputs.dynamic_size:
            covariates = observations.covariates
            if covariates is None:
                shape = (*observations.values.shape, len(self.covariates.dynamic))
                covariates = torch.full(shape, math.nan, dtype=torch.float64, device=values.device)
            parts.append(self.inputs.dynamic(covariates))
        if self.inputs.static_size:
            parts.append(static[:, None].expand(-1, values.shape[1], -1))
        return torch.cat(parts, dim=-1)

    def _calendar(self, time_us: Tensor) -> Tensor:
        """Return the calendar features of times, float32 [..., F]."""
        if not self.config.calendar:
            return torch.zeros((*time_us.shape, 0), device=time_us.device)
        return calendar_features(time_us, self.step_us)

    def _origins(
        self, encoded: Encoded, steps: Tensor, horizon: int, future: Tensor | None, *, offset: int
    ) -> DecoderInputs:
        steps = steps.to(device := encoded.time_us.device)
        horizon = self.config.horizon if self.config.bidirectional else horizon  # backwards always from the same step
        n = encoded.time_us.shape[0] * steps.shape[0]
        back = steps_back(torch.tensor(self.lags, dtype=torch.int64, device=device), horizon)
        index = (self.memory + offset + steps)[:, None, None] - back
        shape = (n, horizon, len(self.lags))
        last_us, ahead = encoded.time_us[:, steps].reshape(n, 1), torch.arange(1, horizon + 1, device=device)
        ahead = self._calendar(Grid(self.step_us).time(last_us, ahead))
        if self.inputs.future_size:
            ahead = torch.cat([ahead, self.inputs.future(self.inputs.padded(future, n, horizon).to(device))], dim=-1)
        stats = Statistics(*(x[:, steps].flatten(0, 1) for x in encoded.statistics))
        seasonal = encoded.extended.values[:, index].reshape(shape)
        return DecoderInputs(
            encoded.context[:, steps].flatten(0, 1),
            stats,
            seasonal,
            encoded.extended.observed[:, index].reshape(shape) & stats.believes(seasonal),
            ahead,
            encoded.static.repeat_interleave(steps.shape[0], dim=0),
            *recent_outputs(encoded.outputs, encoded.position, steps + offset, self.attended),
        )
