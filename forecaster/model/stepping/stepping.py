"""The serving hot path: advance or forecast some of a slab's series where they lie.

What most models are made of (plain cells, a direct decoder, a quantile head) has compiled kernels, which compute what
`Seq2Seq.scan` and `Seq2Seq.predict` do; everything else takes the states out, runs these, and puts them back, so that
who calls need not know which it is. So does everything where numba is missing or told not to compile
(`NUMBA_DISABLE_JIT=1`), and on a GPU.

Knows nothing of series ids, stores or journals.

Shapes: C slots, N series, D horizon steps, W levels, F known-future covariates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from forecaster.model.cells import RecurrentLayer, RecurrentStack, Stack
from forecaster.model.decoders.direct_decoder import DirectDecoder
from forecaster.model.ensemble import Ensemble, Model
from forecaster.model.heads.heads import QuantileHead
from forecaster.model.heads.quantiles import interpolate_quantiles
from forecaster.model.inputs.observations import Observations
from forecaster.model.seq2seq import Prediction, Seq2Seq
from forecaster.model.state import State, select
from forecaster.model.stepping.ragged import Runs

if TYPE_CHECKING:
    from forecaster.model.stepping.packed_decode import PackedDecode
    from forecaster.model.stepping.packed_step import PackedStep

IntArray = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
_STEP_ROWS = 1024  # series of one step without kernels
_DECODE_ROWS = 4096  # series × horizon steps of one decode without them


class Stepper:
    """Steps and forecasts of one model's resident series; one thread at a time may call it.

    Args:
        model: in evaluation mode; later changes to its weights are not seen.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        members = (
            [member for member in model.members if isinstance(member, Seq2Seq)]
            if isinstance(model, Ensemble)
            else [model]
        )
        first = self._first = members[0]
        # Each member embeds categories for itself; all else that covariates make is the same for all.
        self._static_inputs = [one.inputs for one in (members if first.covariates.categories else [first])]
        self._step: PackedStep | None = None
        self._decode: PackedDecode | None = None
        on_cpu = next(first.parameters()).device.type == "cpu"
        if on_cpu and is_plain(first.encoder) and not first.attended and _compiles():
            from forecaster.model.stepping.packed_decode import PackedDecode
            from forecaster.model.stepping.packed_step import PackedStep

            self._step = PackedStep(members)
            self._decode = PackedDecode(members) if _has_packed_decoder(first) else None

    @property
    def steps_packed(self) -> bool:
        """Whether steps are computed by the packed kernels."""
        return self._step is not None

    @property
    def forecasts_packed(self) -> bool:
        """Whether forecasts are."""
        return self._decode is not None

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
        if self._step is None:
            self._step_plainly(tensors, slots, time_us, values, covariates)
        elif len(slots):
            others = _flat(self._others(tensors, slots, covariates)) if self._step.others else None
            self._step.step(tensors, _flat(slots), _flat(time_us), _flat(values), others)

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
        found = Prediction(quantiles, ended)
        if self._decode is None:
            self._predict_plainly(tensors, slots, future, levels, found)
        elif n:
            static = _flat(self._static(tensors, slots)) if self._decode.static else None
            known = None if future is None or not self._decode.future else _flat(self._known(future, n, horizon))
            self._decode.predict(tensors, _flat(slots), quantiles.numpy(), known, static, levels)
        return found

    def advance(
        self, tensors: State, slots: IntArray, time_us: IntArray, values: Float64, covariates: Float64 | None = None
    ) -> None:
        """Do what `step` does with arrays of the host."""
        if self._step is not None and not self._step.others:  # for few series to make tensors takes as long as the step
            if len(slots):
                self._step.step(tensors, _flat(slots), _flat(time_us), _flat(values), None)
            return
        device = tensors["position"].device
        given = [torch.from_numpy(_flat(one)).to(device) for one in (slots, time_us, values)]
        self.step(
            tensors,
            given[0],
            given[1],
            given[2],
            None if covariates is None else torch.from_numpy(_flat(covariates)).to(device),
        )

    def run(self, tensors: State, slots: IntArray, runs: Runs) -> None:
        """Advance each of N different series by a run of steps, in place; only where `steps_packed`.

        Args:
            tensors: the slab's, contiguous, [C, ...] each.
            slots: int64 [N].
            runs: one of each series, their rows by ascending run and step.
        """
        assert self._step is not None
        if not len(slots):
            return
        of_row = np.zeros((len(runs.values), self._step.others), np.float32)
        of_run = np.zeros((len(slots), self._step.others), np.float32)
        if self._step.others:
            at = torch.from_numpy(_flat(slots))
            of_row = _flat(self._others(tensors, at[runs.row_run], runs.covariates))
            of_run = _flat(self._others(tensors, at, None))
        self._step.run(tensors, _flat(slots), runs, (of_row, of_run))

    def forecast(self, tensors: State, slots: IntArray, horizon: int) -> tuple[Float64, Float64]:
        """Do what `predict` does with arrays of the host, at the trained levels and with nothing known of the future.

        Returns:
            The quantiles, [N, D, Q], and the probabilities that a series has ended, [N, D].
        """
        if self._decode is not None and not self._decode.static:
            levels = self._model.config.quantile_levels
            quantiles, ended = np.empty((len(slots), horizon, len(levels))), np.zeros((len(slots), horizon))
            if len(slots):
                self._decode.predict(tensors, _flat(slots), quantiles, None, None, levels)
            return quantiles, ended
        found = self.predict(tensors, torch.from_numpy(_flat(slots)).to(tensors["position"].device), horizon)
        return found.quantiles.cpu().numpy(), found.ended.cpu().numpy()

    def warm_up(self) -> None:
        """Run the kernels once on a state of their own: the first call in a process loads or compiles them."""
        tensors: State = {name: tensor.clone() for name, tensor in self._model.initial_state(1).items()}
        slots = torch.zeros(1, dtype=torch.int64, device=tensors["position"].device)
        one = torch.ones_like(slots, dtype=torch.float64)
        self.step(tensors, slots, torch.zeros_like(slots), one)
        if self.steps_packed:
            self.run(tensors, slots.numpy(), Runs(slots + 1, slots + 1, slots, torch.zeros_like(slots), one))
        self.predict(tensors, slots, 1)

    @torch.inference_mode()
    def _step_plainly(
        self, tensors: State, slots: Tensor, time_us: Tensor, values: Tensor, covariates: Tensor | None
    ) -> None:
        for low in range(0, len(slots), _STEP_ROWS):
            rows = slice(low, low + _STEP_ROWS)
            some, beside = slots[rows], None if covariates is None else covariates[rows]
            one = Observations.of(time_us[rows], values[rows], beside)
            for name, new in self._model.step(select(tensors, some), one).items():
                tensors[name].index_copy_(0, some, new)

    @torch.inference_mode()
    def _predict_plainly(
        self, tensors: State, slots: Tensor, future: Tensor | None, levels: tuple[float, ...], out: Prediction
    ) -> None:
        horizon, trained = out.quantiles.shape[1], self._model.config.quantile_levels
        at_once = max(_DECODE_ROWS // horizon, 1)
        for low in range(0, len(slots), at_once):
            rows = slice(low, low + at_once)
            known = None if future is None else future[rows]
            found = self._model.predict(select(tensors, slots[rows]), horizon, known)
            out.quantiles[rows] = interpolate_quantiles(found.quantiles, trained, levels)
            out.ended[rows] = found.ended

    @torch.inference_mode()
    def _others(self, tensors: State, slots: Tensor, covariates: Tensor | None) -> Tensor:
        """Return the encoder's inputs that come of covariates, [N, E]."""
        inputs = self._first.inputs
        none = torch.zeros((len(slots), inputs.dynamic_size))
        dynamic = none if covariates is None else inputs.dynamic(covariates)
        return torch.cat([dynamic, self._static(tensors, slots)], dim=1)

    @torch.inference_mode()
    def _known(self, future: Tensor, n: int, horizon: int) -> Tensor:
        """Return the features of the known future, [N, D, .]."""
        return self._first.inputs.future(self._first.inputs.padded(future, n, horizon))

    @torch.inference_mode()
    def _static(self, tensors: State, slots: Tensor) -> Tensor:
        """Return the static features of series, the members' side by side, [N, E]; E is 0 for a model without any."""
        if not self._first.inputs.static_size:
            return torch.zeros((len(slots), 0))
        names = ("static_numbers", "static_observed", "static_codes")
        known = {name: tensors[name].index_select(0, slots) for name in names if name in tensors}
        return torch.cat([inputs.static(known) for inputs in self._static_inputs], dim=1)


def is_plain(stack: Stack) -> bool:
    """Whether the layers of a stack are nothing but torch's cells."""
    return isinstance(stack, RecurrentStack) and all(
        isinstance(layer, RecurrentLayer)
        and layer.period == 1
        and layer.transition is None
        and layer.out is None
        and isinstance(layer.into, torch.nn.Identity)
        for layer in stack.layers
    )


def _flat(numbers: Tensor | npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return numbers without gaps, and not read-only: kernels are compiled for nothing else."""
    array: npt.NDArray[Any] = numbers.numpy() if isinstance(numbers, Tensor) else numbers
    return array if array.flags.c_contiguous and array.flags.writeable else array.copy(order="C")


def _compiles() -> bool:
    """Whether numba is there and not told to let Python run everything."""
    try:
        import numba
    except ImportError:
        return False
    return not numba.config.DISABLE_JIT  # type: ignore[attr-defined]


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
