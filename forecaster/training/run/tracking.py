"""A run of MLflow from its begin to its end, whatever ends it.

Knows MLflow's client; knows nothing of what is logged.
"""

import contextlib
import pathlib
import subprocess
from collections.abc import Iterator, Mapping

from forecaster.config import Config
from forecaster.registry import registry
from forecaster.registry.store_errors import no_empty_folder, unavailable
from forecaster.registry.store_uri import without_secrets
from forecaster.training.run.run import Run


@contextlib.contextmanager
def track(
    config: Config, *, trigger: str, name: str | None = None, tags: Mapping[str, str] | None = None
) -> Iterator[Run]:
    """Start a run and end it FINISHED, FAILED with the error as a tag, or KILLED by an interrupt.

    Args:
        config: names the store and the experiment.
        trigger: what asked for the training, for example manual or schedule.
        name: of the run; left out, the cell and its size.
        tags: more of them.
    """
    with no_empty_folder(config.tracking):
        yield from _tracked(config, trigger, name, tags or {})


def _tracked(config: Config, trigger: str, name: str | None, tags: Mapping[str, str]) -> Iterator[Run]:
    client = registry.connect(config.tracking)
    from mlflow.exceptions import MlflowException
    from mlflow.tracking.context.registry import resolve_tags  # who runs what

    experiment = registry.experiment_id(client, config.tracking)
    name = name or f"{config.model.cell} {config.model.num_layers}x{config.model.hidden_size}"
    tags = {"trigger": trigger, **tags} | ({"git_sha": sha} if (sha := git_sha()) else {})
    try:
        run_id: str = client.create_run(experiment, run_name=name, tags=resolve_tags(tags)).info.run_id
        try:
            yield Run(client, config, run_id, tags)
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt | SystemExit)
            said = without_secrets(f"{type(error).__name__}: {error}", config.tracking.uri)
            client.set_tag(run_id, "error", said[:500])
            client.set_terminated(run_id, "KILLED" if interrupted else "FAILED")
            raise
        client.set_terminated(run_id, "FINISHED")
    except MlflowException as error:
        raise unavailable(config.tracking, error) from error


def git_sha() -> str | None:
    """Return the commit of the checkout that this code runs from, `-dirty` if changed; None outside of one."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    here = pathlib.Path(__file__).resolve().parent
    try:
        found = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
