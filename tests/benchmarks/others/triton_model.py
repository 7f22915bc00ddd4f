"""Triton's side: a model of its Python backend that keeps a GRU's hidden vectors by correlation id.

Copied into a model repository as `gru/1/model.py`; runs inside Triton and imports nothing of the project. The network
is as large as ours (2 × 64, 12 inputs) with a linear head of 24 steps × 3 quantiles. Everything that ours does besides
(running scale, seasonal lags, calendar, a durable journal) is left out.

Shapes: B sequences of a batch.
"""

import numpy as np
import torch
import triton_python_backend_utils as triton

INPUTS, HIDDEN, LAYERS, OUTPUTS = 12, 64, 2, 72


class TritonPythonModel:
    """Steps and decodes; one instance holds the sequences that Triton's sequence batcher gives it."""

    def initialize(self, _: dict[str, str]) -> None:
        """Make the weights."""
        torch.set_num_threads(1)
        torch.manual_seed(0)
        self.gru = torch.nn.GRU(INPUTS, HIDDEN, LAYERS, batch_first=True).eval()
        self.head = torch.nn.Linear(HIDDEN, OUTPUTS).eval()
        self.spread = torch.linspace(0.5, 1.5, INPUTS)
        self.hidden = torch.zeros(LAYERS, 1024, HIDDEN)
        self.slots: dict[int, int] = {}

    def execute(self, requests: list) -> list:
        """Answer one micro-batch, one request of a sequence each."""
        rows = torch.tensor([self._slot(request.correlation_id()) for request in requests])
        values = np.concatenate([triton.get_input_tensor_by_name(request, "Y").as_numpy() for request in requests])
        with torch.inference_mode():
            inputs = torch.from_numpy(values).view(-1, 1, 1) * self.spread  # [B, 1, INPUTS]
            output, hidden = self.gru(inputs, self.hidden[:, rows])
            self.hidden[:, rows] = hidden
            forecasts = self.head(output[:, 0]).numpy()
        return [
            triton.InferenceResponse([triton.Tensor("FORECAST", forecasts[k : k + 1])]) for k in range(len(requests))
        ]

    def _slot(self, sequence: int) -> int:
        slot = self.slots.setdefault(sequence, len(self.slots))
        if slot == self.hidden.shape[1]:
            self.hidden = torch.cat([self.hidden, torch.zeros_like(self.hidden)], dim=1)
        return slot
