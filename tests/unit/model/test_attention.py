"""Attention against plain loops."""

import math

import pytest
import torch

from forecaster.model.decoders.attention import Attention


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["additive", "dot"])
def test_it_is_the_mean_weighted_by_the_softmax_of_the_energies(kind: str) -> None:
    torch.manual_seed(0)
    attention = Attention(kind, 5, 4)
    query, memory = torch.randn(2, 3, 5), torch.randn(2, 6, 4)
    available = torch.tensor([[True] * 6, [False, False, True, True, True, True]])
    found = attention(query, memory, available)
    for n in range(2):
        for p in range(3):
            weights = []
            for k in range(6):
                asked, key = attention.query(query[n, p]), attention.key(memory[n, k])
                if kind == "additive":
                    assert attention.energy is not None
                    energy = float(attention.energy(torch.tanh(asked + key)))
                else:
                    energy = float(asked @ key) / math.sqrt(4)
                weights.append(math.exp(energy) if available[n, k] else 0.0)
            expected = sum(w / sum(weights) * memory[n, k] for k, w in enumerate(weights))
            torch.testing.assert_close(found[n, p], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["additive", "dot"])
def test_nothing_to_attend_to_is_zero(kind: str) -> None:
    attention = Attention(kind, 5, 4)
    nothing = torch.zeros(2, 6, dtype=torch.bool)
    found = attention(torch.randn(2, 3, 5), torch.zeros(2, 6, 4), nothing)
    assert torch.equal(found, torch.zeros(2, 3, 4))
