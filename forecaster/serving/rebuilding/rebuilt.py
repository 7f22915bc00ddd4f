"""States that were rebuilt, with what belongs to them; knows nothing of how.

Shapes: N series.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch

from forecaster.model.state import State
from forecaster.serving.storage.records import IntArray


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """Series and their states.

    Args:
        names: N of them.
        state: [N, ...].
        static_digest: int64 [N].
        touched_us: int64 [N].
        offset: steps before the window, which the states do not count, int64 [N].
    """

    names: list[str]
    state: State
    static_digest: IntArray
    touched_us: IntArray
    offset: IntArray

    def counted(self, position: IntArray, observed_count: IntArray) -> "Rebuilt":
        """Return the same with the steps before the windows counted, of those that then stand at a position, [N]."""
        own = self.state["position"].cpu().numpy()
        long = np.flatnonzero((self.offset > 0) & (own + self.offset == position))
        state = dict(self.state)
        for name, count in (("position", position), ("observed_count", observed_count)):
            state[name] = state[name].clone()
            state[name][torch.from_numpy(long)] = torch.from_numpy(count[long]).to(state[name])
        return dataclasses.replace(self, state=state)

    def of(self, part: slice) -> "Rebuilt":
        """Return some of them."""
        state = {name: tensor[part] for name, tensor in self.state.items()}
        return Rebuilt(self.names[part], state, self.static_digest[part], self.touched_us[part], self.offset[part])
