"""Run a benchmark: read it, train on what may be learnt from, forecast, score, write it all down.

Knows the order of the steps; what is scored is the benchmark's module's.
"""

import dataclasses
import importlib.resources
import json
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

from forecaster.arguments import add_config_arguments, command_parser, parse, read_config
from forecaster.benchmarks import etth1, exchange_rate, m4_hourly, weather
from forecaster.benchmarks.problem import Problem, before
from forecaster.config import Config, to_dict
from forecaster.errors import ConfigError
from forecaster.evaluation.rolling import mase_units, rolling_origin
from forecaster.model.ensemble import Ensemble
from forecaster.training.members import fit_members

_SECTIONS = ("data", "model", "training")
# One for each of `forecaster.benchmarks.NAMES`.
BENCHMARKS: dict[str, Callable[[pathlib.Path], Problem]] = {
    "m4-hourly": m4_hourly.load,
    "etth1": etth1.load,
    "exchange-rate": exchange_rate.load,
    "weather": weather.load,
}


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """One run of a benchmark.

    Args:
        name: of the benchmark.
        metrics: every figure.
        seconds: reading, training and scoring.
        train_seconds: training alone.
        members: the figures of each member of the ensemble alone, by seed.
        config: what was trained.
    """

    name: str
    metrics: dict[str, float]
    seconds: float
    train_seconds: float
    members: dict[int, dict[str, float]]
    config: Config

    def write(self, path: pathlib.Path) -> None:
        """Write it as JSON."""
        plain: dict[str, Any] = {
            "benchmark": self.name,
            "metrics": self.metrics,
            "seconds": self.seconds,
            "train_seconds": self.train_seconds,
            "seed": self.config.training.seed,
            "members": self.members,
            "configuration": {name: to_dict(getattr(self.config, name)) for name in _SECTIONS},
        }
        path.write_text(json.dumps(plain, indent=2) + "\n")

    def table(self) -> str:
        """Return the figures as lines, with the least and the most that single members reach."""
        lines = []
        for name, value in self.metrics.items():
            alone = [metrics[name] for metrics in self.members.values()]
            spread = f"   members {min(alone):.4f} to {max(alone):.4f}" if len(alone) > 1 else ""
            lines.append(f"  {name:<28} {value:10.4f}{spread}")
        return "\n".join(lines)


def run(
    name: str, data: pathlib.Path, output: pathlib.Path, *, overrides: Sequence[str] = (), members: int, processes: int
) -> Result:
    """Run a benchmark and write `benchmark.json` and the bundle into `output`.

    Args:
        name: of `BENCHMARKS`.
        data: the benchmark's file or folder.
        output: made if need be.
        overrides: options of the configuration, such as `--model.hidden_size=32`.
        members: of the ensemble.
        processes: trained at once.
    """
    began = time.monotonic()
    config = read_benchmark_config(name, overrides)
    problem = BENCHMARKS[name](data)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write to {output}: {error.strerror}") from error
    history = before(problem.series, problem.first_time_us)
    training_began = time.monotonic()
    bundle = fit_members(history, config, members=members, processes=processes)
    train_seconds = time.monotonic() - training_began
    bundle.save(output / "bundle")
    metrics = _score(bundle.model, problem)
    networks = bundle.model.members if isinstance(bundle.model, Ensemble) else [bundle.model]
    singles = [metrics] if len(networks) == 1 else [_score(network, problem) for network in networks]
    by_seed = {config.training.seed + k: one for k, one in enumerate(singles)}
    result = Result(name, metrics, time.monotonic() - began, train_seconds, by_seed, config)
    result.write(output / "benchmark.json")
    return result


def _score(model: Any, problem: Problem) -> dict[str, float]:
    """Return every figure of a model's forecasts."""
    backtest = rolling_origin(
        model,
        problem.series,
        first_time_us=problem.first_time_us,
        last_time_us=problem.last_time_us,
        units=mase_units(before(problem.series, problem.first_time_us), problem.season),
    )
    return backtest.metrics() | problem.extra(backtest)


def read_benchmark_config(name: str, overrides: Sequence[str] = ()) -> Config:
    """Return a benchmark's ready configuration with options changed; raises ConfigError for a wrong one."""
    parser = command_parser(f"the configuration of {name}")
    add_config_arguments(parser, _SECTIONS)
    file = importlib.resources.files("forecaster").joinpath("configs", f"{name}.yaml")
    with importlib.resources.as_file(file) as path:
        return read_config(parse(parser, ["--config", str(path), *overrides]))
