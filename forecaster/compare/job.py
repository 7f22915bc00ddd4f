"""Train every variant on the same data with the same budget, score all on the same tail, and put them side by side.

Knows the order of the steps and MLflow's nested runs; knows nothing of how a model is fitted.
"""

import dataclasses
import math
import pathlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

import polars as pl
import yaml

from forecaster.compare.outcome import COLUMNS, VariantOutcome, cost_of, ranked, table
from forecaster.compare.variants import Variant, read_variants
from forecaster.config import Config, require
from forecaster.data.windows import Series
from forecaster.errors import ConfigError, UnavailableError
from forecaster.training.run.job import read_series

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TABLE, PICTURE = "comparison.md", "comparison.png"
_PARENT = "mlflow.parentRunId"  # how MLflow's dashboard nests runs


@dataclass(frozen=True, slots=True)
class Comparison:
    """The outcome of a comparison.

    Args:
        run_id: MLflow's, of the parent run.
        outcomes: of every variant, the lowest MASE first, those that failed last.
    """

    run_id: str
    outcomes: tuple[VariantOutcome, ...]

    def table(self) -> str:
        """Return the outcomes as a table for people."""
        return table(self.outcomes)


def compare(
    config: Config,
    variants: str,
    *,
    budget_seconds: float | None = None,
    output: pathlib.Path | None = None,
    stream: TextIO | None = None,
) -> Comparison:
    """Train and score variants of one configuration; nothing is registered.

    Args:
        config: the base; `serving` is not used.
        variants: a YAML file, or the name of a list that comes with the package.
        budget_seconds: wall-clock limit of each training; left out, the configuration's.
        output: a folder for the table and the picture; left out, they are only in MLflow.
        stream: where the progress goes; left out, standard error.

    Raises:
        ConfigError: the base or a variant cannot be; nothing was trained then.
        DataError: the data cannot be used.
        UnavailableError: the tracking store cannot be used.
    """
    stream = stream or sys.stderr
    if budget_seconds is not None:
        require(budget_seconds > 0, "budget-seconds", budget_seconds, "a positive number of seconds")
        config = dataclasses.replace(
            config, training=dataclasses.replace(config.training, max_seconds=budget_seconds, checkpoint_dir=None)
        )
    listed = read_variants(variants, config)
    _prepare(output)
    frame, series = read_series(config.data, until=None, stream=stream)
    from forecaster.compare.chart import comparison_chart
    from forecaster.training.run.tracking import track

    with track(config, trigger="compare", name=f"compare {pathlib.Path(variants).stem}") as parent:
        parent.log_text(
            yaml.safe_dump({variant.name: variant.options for variant in listed}, sort_keys=False), "variants.yaml"
        )
        outcomes = []
        for number, variant in enumerate(listed, start=1):
            stream.write(f"[{number}/{len(listed)}] {variant.name}\n")
            outcomes.append(_train(variant, frame, series, parent.run_id, stream))
        outcomes = ranked(outcomes)
        done = [outcome for outcome in outcomes if math.isfinite(outcome.figures.get("mase", math.nan))]
        found = Comparison(parent.run_id, tuple(outcomes))
        picture = comparison_chart(done) if done else None
        parent.log_table(_columns(outcomes), "comparison.json")
        parent.log_text(found.table() + "\n", TABLE)
        if picture is not None:
            parent.log_figure(picture, PICTURE)
        _write(output, found, picture)
        return found


def _train(
    variant: Variant, frame: pl.DataFrame, series: Sequence[Series], parent: str, stream: TextIO
) -> VariantOutcome:
    """Train one variant in a run of its own; whatever goes wrong with it must not stop the others."""
    from forecaster.training.callbacks import progress_on
    from forecaster.training.fit import fit
    from forecaster.training.inspection import settle
    from forecaster.training.run.tracking import track

    callbacks, write_line = progress_on(stream, variant.config.training.max_epochs)
    tags = {_PARENT: parent, "variant": variant.name}
    try:
        with track(variant.config, trigger="compare", name=variant.name, tags=tags) as run:
            config = settle(variant.config, series)
            run.log_config(config)
            run.log_data(frame, series)
            result = fit(series, config, reporters=[write_line, run.report], callbacks=callbacks)
            run.log_result(result, series)
            cost = cost_of(result.bundle.model)
            run.log_metrics(cost)
    except UnavailableError:
        raise  # the store: the others would have nowhere to go either
    except Exception as error:  # noqa: BLE001  # a training can fail in any way
        reason = " ".join(str(error).split()) or type(error).__name__
        stream.write(f"{variant.name} failed: {reason}\n")
        return VariantOutcome(variant.name, failure=reason)
    return VariantOutcome(variant.name, {**result.backtest.metrics(), "training_seconds": result.seconds, **cost})


def _columns(outcomes: Sequence[VariantOutcome]) -> dict[str, list[object]]:
    """Return the outcomes as the columns of MLflow's table."""
    columns: dict[str, list[object]] = {"variant": [outcome.name for outcome in outcomes]}
    for _, name, _ in COLUMNS:
        columns[name] = [outcome.figures.get(name) for outcome in outcomes]
    return columns | {"failure": [outcome.failure for outcome in outcomes]}


def _prepare(output: pathlib.Path | None) -> None:
    try:
        if output is not None:
            output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write to {output}: {error.strerror}") from error


def _write(output: pathlib.Path | None, found: Comparison, picture: "Figure | None") -> None:
    if output is None:
        return
    (output / TABLE).write_text(found.table() + "\n", encoding="utf-8")
    if picture is not None:
        picture.savefig(output / PICTURE)
