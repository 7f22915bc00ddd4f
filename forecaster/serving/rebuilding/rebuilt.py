"""States that were rebuilt, with what belongs to them; knows nothing of how.

Shapes: N series.
"""

from dataclasses import dataclass

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

    def of(self, part: slice) -> "Rebuilt":
        """Return some of them."""
        state = {name: tensor[part] for name, tensor in self.state.items()}
        return Rebuilt(self.names[part], state, self.static_digest[part], self.touched_us[part], self.offset[part])
