"""The direct decoder's quantiles, straight from a slab's tensors, by the compiled kernel: its weights and tables.

What `Seq2Seq.predict` does for a plain encoder, a direct decoder and a quantile head. What is known of an origin as a
whole is multiplied once for all steps ahead; their calendar is the origin's, turned.

Shapes: C slots, N series, D horizon steps, S seasonal lags, A decoder's hidden, Q levels, V wanted ones, K members.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from forecaster.data.features import DAY_US
from forecaster.model.decoders.direct_decoder import DirectDecoder
from forecaster.model.heads.quantiles import interpolate_quantiles
from forecaster.model.seq2seq import Seq2Seq
from forecaster.model.state import State
from forecaster.model.stepping import decode_kernel
from forecaster.model.stepping.packed_step import Array, blocks, in_blocks, periods_of, views

_NEWEST = 2  # of an origin's inputs, the last ones: the newest value and whether there is one


class PackedDecode:
    """The forecasts of one model or of an ensemble's members.

    Args:
        members: of one configuration, in evaluation mode.
    """

    def __init__(self, members: Sequence[Seq2Seq]) -> None:
        first = members[0]
        self.trained = first.config.quantile_levels
        self.future, self.static = first.inputs.future_size, blocks(members) * first.inputs.static_size
        periods = periods_of(first)
        self.plan = np.array(first.lags, dtype=np.int64), periods, _turns(first, periods), self.trained.index(0.5)
        origin, *others = zip(*(_weights(member) for member in members), strict=True)
        parts = [in_blocks(origin, members, behind=_NEWEST), *others]
        self.weights = tuple(np.ascontiguousarray(torch.stack(tuple(part)).numpy()) for part in parts)
        self._memory = views(first)
        self.wanted: dict[tuple[float, ...], tuple[tuple[int, int], Array, Array]] = {}

    def predict(
        self,
        tensors: State,
        slots: Array,
        out: Array,
        future: Array | None,
        static: Array | None,
        levels: tuple[float, ...],
    ) -> None:
        """Write the quantiles of the series in `slots` at `levels` into `out`, float64 [N, D, V].

        All arrays are contiguous and writable.

        Args:
            tensors: contiguous, [C, ...] each; they stay as they are.
            slots: int64 [N].
            out: [N, D, V].
            future: features of the known-future covariates, float32 [N, D, .]; None: all missing.
            static: features of the series, in `blocks`, float32 [N, E]; None without such.
            levels: within the trained ones.
        """
        n, horizon = out.shape[:2]
        ahead = np.zeros((n, horizon, self.future), np.float32) if future is None else future
        beside = np.zeros((n, 0), np.float32) if static is None else static
        plan = (*self.plan, *self._between(levels))
        decode_kernel.predict(self._memory.of(tensors), slots, out, ahead, beside, plan, self.weights)

    def _between(self, levels: tuple[float, ...]) -> tuple[tuple[int, int], Array, Array]:
        """Return which trained levels matter, and for each wanted one the trained one below and its share of the next.

        Returns:
            Lowest and highest index; int64 [V]; float64 [V].
        """
        found = self.wanted.get(levels)
        if found is None:
            parts = interpolate_quantiles(torch.eye(len(self.trained), dtype=torch.float64), self.trained, levels)
            below = (parts > 0).int().argmax(dim=0)
            share = 1.0 - parts.gather(0, below[None])[0]
            median, last = self.plan[3], len(self.trained) - 1
            asked = min(int(below.min()), median), max(min(int(below.max()) + 1, last), median)
            found = self.wanted[levels] = asked, below.numpy(), share.numpy()
        return found


def _weights(model: Seq2Seq) -> tuple[Tensor, ...]:
    """Return one network's weights as `decode_kernel.predict` takes them."""
    decoder, lags = model.decoder, len(model.lags)
    assert isinstance(decoder, DirectDecoder)
    readout, step = decoder.readout, decoder.from_step.weight.detach().t()
    # Clipped candidates, then which of them there are, then what is ahead: the last candidate is the newest value,
    # which is the same at all steps.
    newest, there = step[lags : lags + 1], step[2 * lags + 1 : 2 * lags + 2]
    head = readout.head.linear
    return (
        torch.cat([decoder.from_context.weight.detach().t(), newest, there]),
        decoder.from_context.bias.detach(),
        torch.cat([step[:lags], step[lags + 1 : 2 * lags + 1], step[2 * lags + 2 :]]),
        decoder.from_horizon.weight.detach(),
        readout.middle.weight.detach().t(),
        readout.middle.bias.detach(),
        torch.cat([readout.gates.weight, head.weight]).detach(),
        torch.cat([readout.gates.bias, head.bias]).detach(),
    )


def _turns(model: Seq2Seq, periods: Array) -> Array:
    """Return cosine and sine of what the calendar's angles grow by up to each step ahead, float64 [2, P, D]."""
    ahead = np.arange(1, model.config.horizon + 1) * (math.tau * model.step_us / DAY_US)
    angles = ahead / periods[:, 1:]
    return np.stack([np.cos(angles), np.sin(angles)])
