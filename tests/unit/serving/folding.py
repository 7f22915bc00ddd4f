"""What tests of engines share: small models, requests in short, and the plain fold that every state must equal.

The offline model is the reference: `Series` keeps every step of a series and folds them in one plain pass.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from forecaster.config import ModelConfig
from forecaster.model.bundle import Bundle
from forecaster.model.covariates import CovariateSpec, with_attributes
from forecaster.model.inputs.observations import Observations
from forecaster.model.seq2seq import Seq2Seq
from forecaster.model.state import State
from forecaster.serving.engine.engine import Engine
from forecaster.serving.storage.records import Attributes, Columns
from forecaster.serving.work.forecasting import ForecastWork
from forecaster.serving.work.observing import ObserveWork

HOUR_US = 3_600_000_000
GAP, HORIZON = 20, 5
Row = tuple[str, int, float, tuple[float, ...]]  # series, hour, value, covariates
Static = tuple[dict[str, float], dict[str, str]]


def make_bundle(seed: int = 3, spec: CovariateSpec | None = None, **changes: object) -> Bundle:
    """Return a small model with weights far from the initial zeros."""
    torch.manual_seed(seed)
    fields: dict[str, object] = {"hidden_size": 6, "decoder_size": 6, "season_lengths": (4,), "min_history": 1}
    model = Seq2Seq(ModelConfig(horizon=HORIZON, **(fields | changes)), HOUR_US, spec or CovariateSpec())  # type: ignore[arg-type]
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return Bundle.of(model, frequency="1h", max_gap_steps=GAP)


BUNDLE = make_bundle()


def work(rows: Sequence[Row], static: Mapping[str, Static] | None = None, names: Sequence[str] = ()) -> ObserveWork:
    """Return a request of rows, whose covariates have these names, and static covariates by series."""
    ids = tuple(dict.fromkeys(row[0] for row in rows))
    columns = Columns(
        ids,
        np.array([ids.index(row[0]) for row in rows], dtype=np.int32),
        np.array([row[1] * HOUR_US for row in rows], dtype=np.int64),
        np.array([row[2] for row in rows], dtype=np.float64),
        tuple(names),
        np.array([row[3] for row in rows], dtype=np.float64).reshape(len(rows), len(names)) if names else None,
    )
    given = static or {}
    parts = (tuple(given), tuple(n for n, _ in given.values()), tuple(c for _, c in given.values()))
    return ObserveWork(columns, Attributes(*parts) if given else None)


def columns(rows: Sequence[tuple[str, int, float]]) -> ObserveWork:
    """Return a request of rows of (series, hour, value)."""
    return work([(*row, ()) for row in rows])


@dataclass
class Series:
    """One series by the rules: every step of its last run, and the static covariates that held at each.

    Args:
        names: of the covariates of its rows; a model may know others.
        steps: hour, value, covariates and static covariates of each.
        static: what holds now.
    """

    names: tuple[str, ...] = ()
    steps: list[tuple[int, float, tuple[float, ...], Static]] = field(default_factory=list)
    static: Static = ({}, {})

    def observe(self, hour: int, value: float, beside: tuple[float, ...] = ()) -> None:
        if self.steps and hour - self.steps[-1][0] > GAP + 1:
            self.steps = []
        missing = (math.nan,) * len(beside)
        while self.steps and self.steps[-1][0] < hour - 1:
            self.steps.append((self.steps[-1][0] + 1, math.nan, missing, self.static))
        self.steps.append((hour, value, beside, self.static))

    @property
    def has_values(self) -> bool:
        return any(math.isfinite(value) for _, value, _, _ in self.steps)

    def forecast(
        self,
        bundle: Bundle,
        future: torch.Tensor | None = None,
        *,
        last: int | None = None,
        first_is_missing: bool = False,
    ) -> np.ndarray:
        """Return the quantiles [D, Q] of one pass over all steps, or over the last ones."""
        model, steps = bundle.model, list(self.steps[-last:] if last else self.steps)
        if first_is_missing:
            hour, _, beside, static = steps[0]
            steps[0] = (hour, math.nan, (math.nan,) * len(beside), static)
        state = model.initial_state(1)
        with torch.inference_mode():
            for static, run in itertools.groupby(steps, key=lambda step: step[3]):
                hours, values, beside, _ = zip(*run, strict=True)
                known = [self._known(bundle, one) for one in beside]
                observations = Observations.of(
                    torch.tensor([hours]) * HOUR_US,
                    torch.tensor([values], dtype=torch.float64),
                    torch.tensor([known], dtype=torch.float64) if known[0] else None,
                )
                state, _ = model.scan(_with_static(bundle, state, static), observations)
            return model.decode(_with_static(bundle, state, self.static), model.config.horizon, future)[0].numpy()

    def _known(self, bundle: Bundle, beside: tuple[float, ...]) -> list[float]:
        """Return one step's covariates as the model has them, by name."""
        given = dict(zip(self.names, beside, strict=True))
        return [given.get(name, math.nan) for name in bundle.model.covariates.dynamic]


def _with_static(bundle: Bundle, state: State, static: Static) -> State:
    spec = bundle.model.covariates
    numbers = [static[0].get(one.name, math.nan) for one in spec.static]
    codes = spec.codes([static[1].get(one.name, "") for one in spec.categories])
    numbers_, codes_ = torch.tensor([numbers], dtype=torch.float64), torch.tensor([codes], dtype=torch.int64)
    return with_attributes(state, numbers_.reshape(1, -1), codes_.reshape(1, -1))


def folded(rows: Sequence[Row], static: Static = ({}, {}), names: Sequence[str] = ()) -> Series:
    """Return what the rows of one series make of it, with static covariates that held from the beginning."""
    one = Series(tuple(names), static=static)
    for _, hour, value, beside in rows:
        one.observe(hour, value, beside)
    return one


def offline(bundle: Bundle, rows: Sequence[tuple[int, float]]) -> np.ndarray:
    """Return the quantiles [D, Q] of one plain pass over rows of (hour, value)."""
    one = Series()
    for hour, value in rows:
        one.observe(hour, value)
    return one.forecast(bundle)


def forecast(engine: Engine, series_id: str, **more: object) -> np.ndarray:
    """Return an engine's quantiles [D, Q] of one series, which must not fail."""
    config = engine.lanes.active.bundle.model.config
    answer = engine.forecast([ForecastWork((series_id,), config.horizon, config.quantile_levels, **more)])[0]  # type: ignore[arg-type]
    assert not answer.failures
    return answer.quantiles[0]


def assert_same(found: np.ndarray, expected: np.ndarray, what: str) -> None:
    """Raise AssertionError unless two forecasts are the same but for rounding."""
    scale = 1.0 + float(np.abs(expected).max())
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5 * scale, err_msg=what)


def stream(n: int, seed: int = 0) -> list[tuple[str, int, float]]:
    """Return rows of three series, hour by hour, n of each."""
    rng = np.random.default_rng(seed)
    return [(f"s{k % 3}", k // 3, float(v)) for k, v in enumerate(rng.normal(10, 3, 3 * n))]


def walk(name: str, hours: Sequence[int], seed: int, covariates: int = 0) -> list[Row]:
    """Return rows with missing values at these hours."""
    rng = np.random.default_rng([seed, len(hours)])
    values = rng.normal(10, 3, len(hours))
    values[rng.random(len(hours)) < 0.1] = math.nan
    values[0] = 10.0
    beside = rng.normal(5, 10, (len(hours), covariates))
    beside[rng.random(beside.shape) < 0.2] = math.nan
    return [(name, hour, float(v), tuple(x)) for hour, v, x in zip(hours, values, beside.tolist(), strict=True)]
