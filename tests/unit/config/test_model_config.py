"""What cannot work together is refused, not left out in silence."""

import pytest

from forecaster.config import ModelConfig
from forecaster.errors import ConfigError


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"deep_transition": True}, r"model\.deep_transition"),
        ({"deep_output": True}, r"model\.deep_output"),
        ({"layer_periods": (1, 24)}, r"model\.layer_periods"),
        ({"decoder": "recurrent", "context": "initial"}, r"model\.context"),
    ],
)
def test_a_cell_without_hidden_recurrence_has_nothing_to_deepen_or_to_slow_down(
    changes: dict[str, object], field: str
) -> None:
    ModelConfig(cell="gru", **changes)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=field):
        ModelConfig(cell="output", **changes)  # type: ignore[arg-type]
