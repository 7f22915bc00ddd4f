"""A stateless peer: the same weights behind LitServe; every request brings the last 168 values of its series.

Runs in the environment of `peer-server.txt`. `model` and `data` of the project are imported for the network, nothing
else. One series in a request: LitServe forms the batches. Many in a request: they are a batch already. The values
travel as base64 in JSON, which is read faster than numbers.

Shapes: N series of a request or a batch, T steps.
"""

import argparse
import base64
import pathlib

import litserve
import numpy as np
import torch

from forecaster.model.bundle import Bundle
from forecaster.model.inputs.observations import Observations

WINDOW, HOUR_US = 168, 3_600_000_000


class WindowAPI(litserve.LitAPI):
    """Encodes each window anew and decodes 24 steps.

    Args:
        bundle: folder of the model.
        levels: of the quantiles, which the model was trained for.
        batch: most requests in a batch; 1 turns batching off.
        wait: seconds that a batch waits for more requests.
    """

    def __init__(self, bundle: pathlib.Path, levels: tuple[float, ...], batch: int, wait: float) -> None:
        super().__init__(max_batch_size=batch, batch_timeout=wait)
        self.folder, self.levels = bundle, levels

    def setup(self, device: str) -> None:
        """Load the weights, once in each worker."""
        torch.set_num_threads(1)
        self.model = Bundle.load(self.folder).model
        self.columns = [self.model.config.quantile_levels.index(level) for level in self.levels]

    def decode_request(self, request: dict) -> np.ndarray:
        """Return the windows, float64 [N, 168]."""
        return np.frombuffer(base64.b64decode(request["values"]), np.float64).reshape(-1, WINDOW)

    def batch(self, inputs: list) -> np.ndarray:
        """Join requests of one series each."""
        return np.concatenate(inputs)

    def predict(self, windows: np.ndarray) -> np.ndarray:
        """Return the quantiles, float64 [N, 24, 3]."""
        values = torch.from_numpy(np.ascontiguousarray(windows))
        times = torch.arange(WINDOW).expand(len(values), -1) * HOUR_US
        with torch.inference_mode():
            state = self.model.initial_state(len(values))
            state, _ = self.model.scan(state, Observations(times, values, torch.ones_like(values, dtype=torch.bool)))
            return self.model.decode(state, self.model.config.horizon)[..., self.columns].numpy()

    def unbatch(self, output: np.ndarray) -> list:
        """Part what `batch` joined."""
        return [output[k : k + 1] for k in range(len(output))]

    def encode_response(self, output: np.ndarray) -> dict:
        """Return the forecasts as base64 of float64 [N, 24, 3]."""
        return {"forecasts": base64.b64encode(output.tobytes()).decode()}


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=pathlib.Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--levels", type=float, nargs="+", required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--wait", type=float, default=0.0)
    parser.add_argument("--workers", type=int, required=True)
    given = parser.parse_args()
    api = WindowAPI(given.bundle, tuple(given.levels), given.batch, given.wait)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=given.workers, fast_queue=True, timeout=120)
    server.run("127.0.0.1", given.port, num_api_servers=1, log_level="warning", generate_client_file=False)


if __name__ == "__main__":
    main()
