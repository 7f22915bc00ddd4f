"""Score a benchmark's configuration on windows before the test part: how one is chosen without looking at it.

The first window is the validation tail right before the test part; each further one ends two tails earlier, and is
trained for anew from what lies before it.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence

from forecaster.benchmarks.job import BENCHMARKS, read_benchmark_config
from forecaster.benchmarks.problem import before
from forecaster.training.callbacks import progress_on
from forecaster.training.fit import fit
from forecaster.training.split import tail_start


def validate(name: str, data: pathlib.Path, *, overrides: Sequence[str] = (), windows: int) -> list[dict[str, float]]:
    """Return the figures of each window, the latest first; nothing of the test part is read into them.

    Args:
        name: of `BENCHMARKS`.
        data: the benchmark's file or folder.
        overrides: options of the configuration, such as `--model.hidden_size=32`.
        windows: how many.

    Raises DataError where too little lies before a window.
    """
    config = read_benchmark_config(name, overrides)
    config = dataclasses.replace(config, training=dataclasses.replace(config.training, holdout=True))
    problem = BENCHMARKS[name](data)
    end_us, found = problem.first_time_us, []
    for _ in range(windows):
        history = [one_series for one_series in before(problem.series, end_us) if len(one_series)]
        callbacks, report = progress_on(sys.stderr, config.training.max_epochs)
        result = fit(history, config, reporters=[report], callbacks=callbacks)
        found.append(result.backtest.metrics())
        end_us -= 2 * (end_us - tail_start(history, config.model.horizon, config.training))
    return found


def table(windows: Sequence[dict[str, float]]) -> str:
    """Return the figures as lines: each window's, and their mean."""
    lines = []
    for name in windows[0]:
        values = [window[name] for window in windows]
        each = "  ".join(f"{value:10.4f}" for value in values)
        lines.append(f"  {name:<28} {each}   mean {sum(values) / len(values):10.4f}")
    return "\n".join(lines)
