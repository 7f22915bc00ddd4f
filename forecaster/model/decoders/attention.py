"""Attention over the encoder's last outputs, which a series' state keeps.

Knows vectors and masks; knows nothing of time or of what the vectors stand for.

Shapes: B series, T steps, O origins of a series, N origins, P paths of one, K attended outputs, H hidden, A query size.
"""

import math

import torch
from torch import Tensor, nn


class Attention(nn.Module):
    """A weighted mean of the outputs, by how well each answers the query.

    Args:
        kind: `additive`, v · tanh(W q + U k) (Bahdanau et al. 2015), or `dot`, q W · k / √H (Vaswani et al. 2017).
        query_size: A.
        memory_size: H.
    """

    def __init__(self, kind: str, query_size: int, memory_size: int) -> None:
        super().__init__()
        self.kind = kind
        self.query = nn.Linear(query_size, memory_size)
        self.key = nn.Linear(memory_size, memory_size, bias=False)
        self.energy = nn.Linear(memory_size, 1, bias=False) if kind == "additive" else None

    def forward(self, query: Tensor, memory: Tensor, available: Tensor) -> Tensor:
        """Return the attended mean of the outputs, [N, P, H]; zero where none is available.

        Args:
            query: [N, P, A].
            memory: [N, K, H]; zero where not available.
            available: bool [N, K].
        """
        asked, keys = self.query(query), self.key(memory)
        if self.energy is not None:
            scores = self.energy((asked[:, :, None] + keys[:, None]).tanh())[..., 0]
        else:
            scores = asked @ keys.transpose(1, 2) / math.sqrt(keys.shape[-1])
        scores = scores.masked_fill(~available[:, None], torch.finfo(scores.dtype).min)
        mean: Tensor = scores.softmax(dim=-1) @ memory
        return mean


def recent_outputs(outputs: Tensor, position: Tensor, steps: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the last outputs up to each origin.

    Args:
        outputs: the K before a scan, then its T, [B, K + T, H].
        position: steps seen before the scan, int64 [B].
        steps: the origins' steps in the scan, -1 for its beginning, int64 [O].
        count: K.

    Returns:
        The outputs, oldest first, [B · O, K, H], and which of them there are, bool [B · O, K].
    """
    recent = torch.arange(1, count + 1, device=steps.device)
    memory = outputs[:, steps[:, None] + recent]
    seen = position[:, None] + steps + 1
    return memory.flatten(0, 1), (count - recent < seen[..., None]).flatten(0, 1)
