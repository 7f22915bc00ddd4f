"""The serving hot path: advance or forecast some of a slab's series where they lie, as fast as torch can.

What most models are made of (plain cells, a direct decoder, a quantile head) has packed kernels, which compute what
`Seq2Seq.scan` and `Seq2Seq.predict` do; everything else takes the states out, runs these, and puts them back, so that
who calls need not know which it is.

Knows nothing of series ids, stores or journals.

Shapes: C slots, N series, D horizon steps, W levels, F known-future covariates.
"""

import numpy as np
import torch
from torch import Tensor

from forecaster.data.features import calendar_features, calendar_size
from forecaster.model.direct_decoder import DirectDecoder
from forecaster.model.ensemble import Ensemble, Model
from forecaster.model.heads import QuantileHead
from forecaster.model.observations import Observations
from forecaster.model.packed_cells import is_plain
from forecaster.model.packed_decode import PackedDecode
from forecaster.model.packed_state import Array, Arrays
from forecaster.model.packed_step import PackedStep
from forecaster.model.quantiles import interpolate_quantiles
from forecaster.model.seq2seq import Prediction, Seq2Seq
from forecaster.model.state import State, select

_STEP_ROWS = 1024  # series of one step; both as measured by tests.benchmarks.kernels
_DECODE_ROWS = 4096  # series × horizon steps of one decode
_KEPT_TIMES = 64


class Stepper:
    """Steps and forecasts of one model's resident series; one thread at a time may call it.

    Args:
        model: in evaluation mode; later changes to its weights are not seen.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        members = [one for one in model.members if isinstance(one, Seq2Seq)] if isinstance(model, Ensemble) else [model]
        first = self._first = members[0]
        self._device = next(first.parameters()).device
        plain = is_plain(first.encoder) and not first.attended and self._device.type == "cpu"
        self._step = PackedStep(members) if plain else None
        self._decode = PackedDecode(members) if plain and _has_packed_decoder(first) else None
        self._calendar_size = calendar_size(first.step_us) if first.config.calendar else 0
        self._step_at: dict[int, list[Tensor]] = {}
        self._decode_at: dict[int, list[Tensor]] = {}

    @property
    def steps_packed(self) -> bool:
        """Whether steps are computed by the packed kernels."""
        return self._step is not None

    @property
    def forecasts_packed(self) -> bool:
        """Whether forecasts are."""
        return self._decode is not None

    @torch.inference_mode()
    def step(
        self, tensors: State, slots: Tensor, time_us: Tensor, values: Tensor, covariates: Tensor | None = None
    ) -> None:
        """Advance the series in `slots` by one step, in place; no other slot is touched.

        Args:
            tensors: the slab's, contiguous, [C, ...] each.
            slots: int64 [N], all different.
            time_us: of the step, int64 [N].
            values: float64 [N]; NaN means missing.
            covariates: past ones, then known-future ones, NaN where missing, float64 [N, V]; None: all are.
        """
        for low in range(0, len(slots), _STEP_ROWS):
            rows = slice(low, low + _STEP_ROWS)
            beside = None if covariates is None else covariates[rows]
            self._step_some(tensors, slots[rows], time_us[rows], values[rows], beside)

    @torch.inference_mode()
    def predict(
        self,
        tensors: State,
        slots: Tensor,
        horizon: int,
        future: Tensor | None = None,
        levels: tuple[float, ...] | None = None,
    ) -> Prediction:
        """Forecast the series in `slots`, which stay as they are.

        Args:
            tensors: the slab's, [C, ...] each.
            slots: int64 [N].
            horizon: D.
            future: known-future covariates of the steps ahead, raw, NaN where missing, float64 [N, D, F].
            levels: of the quantiles, within the trained range; left out, the trained ones.

        Returns:
            The quantiles at `levels`, [N, D, W], and the probabilities that a series has ended.
        """
        n, levels = len(slots), levels or self._model.config.quantile_levels
        quantiles = torch.empty((n, horizon, len(levels)), dtype=torch.float64, device=slots.device)
        ended = torch.zeros((n, horizon), dtype=torch.float64, device=slots.device)
        at_once = max(_DECODE_ROWS // horizon, 1)
        for low in range(0, n, at_once):
            rows = slice(low, low + at_once)
            known = None if future is None else future[rows]
            self._predict_some(tensors, slots[rows], known, levels, Prediction(quantiles[rows], ended[rows]))
        return Prediction(quantiles, ended)

    def _step_some(
        self, tensors: State, slots: Tensor, time_us: Tensor, values: Tensor, covariates: Tensor | None
    ) -> None:
        if self._step is None:
            one = Observations.of(time_us, values, covariates)
            for name, new in self._model.step(select(tensors, slots), one).items():
                tensors[name].index_copy_(0, slots, new)
            return
        inputs, others = self._first.inputs, []
        slab, times = _arrays(tensors), time_us.numpy()
        time = self._one_time(times)
        if time is None:
            others.append((0, calendar_features(time_us, self._first.step_us)))
        if covariates is not None and inputs.dynamic_size:
            others.append((self._calendar_size, inputs.dynamic(covariates)))
        if inputs.static_size:
            others.append((self._calendar_size + inputs.dynamic_size, self._static(tensors, slots)))
        biases = None if time is None else self._at(self._step_at, self._step, time)
        with np.errstate(all="ignore"):
            self._step.step(slab, slots.numpy(), times, values.numpy(), biases, others)

    def _predict_some(
        self, tensors: State, slots: Tensor, future: Tensor | None, levels: tuple[float, ...], out: Prediction
    ) -> None:
        horizon = out.quantiles.shape[1]
        if self._decode is None:
            found = self._model.predict(select(tensors, slots), horizon, future)
            out.quantiles.copy_(interpolate_quantiles(found.quantiles, self._model.config.quantile_levels, levels))
            out.ended.copy_(found.ended)
            return
        inputs = self._first.inputs
        known = None
        if future is not None and inputs.future_size:
            known = inputs.future(inputs.padded(future, len(slots), horizon).to(slots.device))
        static = self._static(tensors, slots) if inputs.static_size else None
        slab, rows = _arrays(tensors), slots.numpy()
        times = slab["time_us"][rows]
        time = self._one_time(times)
        if time is None:
            ahead = self._decode.at(calendar_features(torch.from_numpy(times), self._first.step_us))
        else:
            ahead = self._at(self._decode_at, self._decode, time)
        with np.errstate(all="ignore"):
            self._decode.predict(slab, rows, out.quantiles.numpy(), ahead, known, static, levels)

    def _one_time(self, time_us: Array) -> int | None:
        """Return the time of all series, as it is in most fleets, or None; without a calendar one is like another."""
        if not self._calendar_size:
            return 0
        first = int(time_us[0])
        return first if len(time_us) == 1 or bool((time_us == first).all()) else None

    def _at(self, known: dict[int, list[Tensor]], kernel: PackedStep | PackedDecode, time: int) -> list[Tensor]:
        """Return what a kernel makes of a time."""
        found = known.get(time)
        if found is None:
            if len(known) >= _KEPT_TIMES:
                known.pop(next(iter(known)))
            times = torch.tensor([time])
            features = calendar_features(times, self._first.step_us) if self._calendar_size else torch.zeros((1, 0))
            found = known[time] = kernel.at(features)
        return found

    def _static(self, tensors: State, slots: Tensor) -> Tensor:
        """Return the static features of series, [N, E]."""
        names = ("static_numbers", "static_observed", "static_codes")
        return self._first.inputs.static(
            {name: tensors[name].index_select(0, slots) for name in names if name in tensors}
        )


def _arrays(tensors: State) -> Arrays:
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def _has_packed_decoder(model: Seq2Seq) -> bool:
    decoder = model.decoder
    return (
        isinstance(decoder, DirectDecoder)
        and isinstance(decoder.readout.head, QuantileHead)
        and decoder.readout.attention is None
        and decoder.readout.ending is None
        and decoder.features.reader is None
        and not model.config.bidirectional
    )
