"""Attention over the encoder's last outputs, which a series' state keeps.

Knows vectors and masks; knows nothing of time or of what the vectors stand for.

Shapes: N origins, P paths of an origin, K attended outputs, H hidden, A query size.
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
