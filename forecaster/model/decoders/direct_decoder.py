"""The direct decoder: all horizon steps at once, none knows of another.

Shapes: N origins, D horizon steps; see `decoder`.
"""

import torch
from torch import Tensor, nn

from forecaster.config import ModelConfig
from forecaster.model.decoders.decoder import Decoded, DecoderInputs, Readout, Sizes, StepFeatures


class DirectDecoder(nn.Module):
    """A shared perceptron over the horizon steps.

    Args:
        config: resolved.
        sizes: of the origins' parts.
    """

    def __init__(self, config: ModelConfig, sizes: Sizes) -> None:
        super().__init__()
        self.features = StepFeatures(sizes, config.decoder_size, bidirectional=config.bidirectional)
        self.from_context = nn.Linear(self.features.context_size, config.decoder_size)
        self.from_step = nn.Linear(self.features.size, config.decoder_size, bias=False)
        self.from_horizon = nn.Embedding(config.horizon, config.decoder_size)
        self.readout = Readout(config, num_candidates=sizes.lags + 2, memory_size=sizes.context)
        nn.init.normal_(self.from_horizon.weight, std=0.1)

    def forward(self, origins: DecoderInputs) -> Decoded:
        """Return the distributions of all steps."""
        candidates, available = self.features.candidates(origins)
        step = self.features(origins, candidates, available)
        horizon = torch.arange(step.shape[1], device=step.device)
        hidden: Tensor = (
            self.from_context(self.features.context(origins))[:, None]
            + self.from_step(step)
            + self.from_horizon(horizon)
        )
        return Decoded(*self.readout(hidden, candidates, available, origins))
