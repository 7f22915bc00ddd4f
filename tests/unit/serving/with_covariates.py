"""What tests of engines with covariates share: a model that knows some, rows that have them, and their fold."""

import functools

import numpy as np

from forecaster.model.bundle import Bundle
from tests.unit.model.family import SPEC, make_model
from tests.unit.serving import folding
from tests.unit.serving.folding import GAP, Row, Static

BUNDLE = Bundle.of(make_model(SPEC, min_history=1), frequency="1h", max_gap_steps=GAP)
LEVELS = (0.1, 0.5, 0.9)
NAMES = SPEC.dynamic
STATIC: Static = ({"area": 80.0}, {"region": "south", "kind": "b"})

work = functools.partial(folding.work, names=NAMES)
folded = functools.partial(folding.folded, names=NAMES)


def history(name: str = "a", hours: int = 30, start: int = 0) -> list[Row]:
    """Return hourly rows of one series."""
    rng = np.random.default_rng(4)
    drawn = rng.normal(10, 3, (start + hours, 4))
    return [(name, hour, drawn[hour, 0], tuple(drawn[hour, 1:])) for hour in range(start, start + hours)]
