"""One step of stacked GRU, LSTM or plain cells, by as few passes over memory as torch allows.

The gates of a layer lie in one buffer that starts as the bias, to which two products are added in place; what torch's
own cell spends on slicing and copying is left out. Computes what `cells.RecurrentStack` computes for T = 1 where its
layers are plain: no perceptron inside, no period.

Knows nothing of what the inputs mean.

Shapes: N series, I inputs, H hidden, L layers, G gates: 4 H (GRU, LSTM) or H.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from forecaster.model.cells import RecurrentLayer, RecurrentStack, Stack

_ORDERS = {"gru": (2, 0, 1), "lstm": (0, 1, 3, 2)}  # of torch's gates here: n r z, and i f o g


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


class PackedCell:
    """One layer.

    Args:
        layer: a plain one.
        cell: its kind.
    """

    def __init__(self, layer: RecurrentLayer, cell: str) -> None:
        self.cell = cell
        self.carried = ("hidden", "cell") if cell == "lstm" else ("hidden",)
        size = self.size = layer.hidden_size
        into, back, bias_into, bias_back = (
            layer.kernel.get_parameter(name).detach()
            for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        )
        order = _ORDERS.get(cell, (0,))
        into, back, bias_into, bias_back = (
            torch.cat([part.split(size)[k] for k in order]) for part in (into, back, bias_into, bias_back)
        )
        # A GRU's new vector takes W x + b and r · (U h + c) apart (Cho et al. 2014 as in cuDNN): n, r, z from the
        # inputs, then r, z and U h + c from the hidden vector.
        apart = torch.zeros(size if cell == "gru" else 0, device=into.device)
        shared = bias_back if cell != "gru" else torch.cat([apart, bias_back[size:]])
        self.bias = torch.cat([bias_into + shared, bias_back[:size][: len(apart)]])
        self.into = into.t().contiguous()  # [I, 3 H], [I, 4 H] or [I, H]
        hidden = torch.cat([back[size:], back[:size]]) if cell == "gru" else back
        self.back = hidden.t().contiguous()

    def buffers(self, n: int) -> tuple[Tensor, ...]:
        """Return the gates' buffer [N, G] and its parts."""
        size, width = self.size, len(self.bias)
        gates = torch.empty((n, width), device=self.bias.device)
        if self.cell == "gru":
            return (gates, gates[:, : 3 * size], gates[:, size:], gates[:, size : 3 * size], *gates.split(size, dim=1))
        if self.cell == "lstm":
            return (gates, gates, gates, gates[:, : 3 * size], *gates.split(size, dim=1))
        return gates, gates, gates

    def finish(self, buffers: Sequence[Tensor], hidden: Tensor, cell: Tensor | None = None) -> None:
        """Put the next hidden vectors (and cells) in place of `hidden` (and `cell`), [N, H] each.

        Args:
            buffers: with the bias and the inputs' product in the gates.
            hidden: [N, H].
            cell: an LSTM's.
        """
        buffers[2].addmm_(hidden, self.back)
        if self.cell == "gru":
            _, _, _, both, new, reset, update, recurrent = buffers
            both.sigmoid_()
            new.addcmul_(reset, recurrent).tanh_()
            torch.lerp(new, hidden, update, out=hidden)
        elif self.cell == "lstm":
            assert cell is not None
            _, _, _, three, enter, keep, leave, new = buffers
            three.sigmoid_()
            cell.mul_(keep).addcmul_(enter, new.tanh_())
            torch.tanh(cell, out=hidden).mul_(leave)
        else:
            hidden.copy_(buffers[0].relu_() if self.cell == "rnn_relu" else buffers[0].tanh_())
