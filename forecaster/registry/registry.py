"""The model registry: log a bundle in MLflow, register it, give it an alias, find and load it again.

Every function takes the store's address explicitly; nothing here sets MLflow's process-wide state. A bundle is
read from its two files: nothing is unpickled and no code out of the store is run.

Knows nothing of training, of series or of how good a model is.
"""

import importlib.metadata
import logging
import os
import pathlib
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from forecaster.config import TrackingConfig
from forecaster.errors import ModelNotFoundError
from forecaster.imports import absent, without_collections
from forecaster.model.bundle import Bundle
from forecaster.proxies import spare_loopback
from forecaster.registry.artifacts import ARTIFACT, bundle_folder, experiment_id
from forecaster.registry.model_card import MODEL_DESCRIPTION, MODEL_TAGS, requirements, signature
from forecaster.registry.store_errors import no_empty_folder, require_reachable, store_errors
from forecaster.registry.store_uri import sqlite_path, without_password

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

__all__ = [
    "CHALLENGER",
    "CHAMPION",
    "PREVIOUS",
    "RegisteredModel",
    "connect",
    "existing",
    "experiment_id",
    "find",
    "load_bundle",
    "log_bundle",
    "named",
    "newest",
    "prepare",
    "register",
    "resolve",
    "set_alias",
    "store_errors",
]

CHAMPION, PREVIOUS, CHALLENGER = "champion", "previous", "challenger"
_LARGEST_VERSION = 2**31 - 1  # of an integer column
_NOT_IN_LOGGED_NAMES = re.compile(r"[.%\"']")  # MLflow takes them in those of registered models
_MODEL_ID = "model_id"  # a tag: a database does not keep what MLflow is told when a version is made
_MLFLOW_SETTINGS = {  # MLflow has no other switches for these; what the user has set stays
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # seven take minutes to say that there is no server
}


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """A version in the registry.

    Args:
        name: of the registered model.
        version: counts from 1.
        uri: what MLflow's own tools call it.
        run_id: of the run that made it.
        aliases: that point at it.
        model_id: of the logged model that it is, empty for one that somebody registered without.
        tags: such as `fingerprint`, `validation_status` and `data_window_end`.
    """

    name: str
    version: str
    uri: str
    run_id: str
    aliases: tuple[str, ...] = ()
    model_id: str = ""
    tags: dict[str, str] = field(default_factory=dict)


def prepare() -> None:
    """Import MLflow as a process needs it that looks models up and logs no tables: it is smaller, and starts sooner.

    Stores that somebody has added to MLflow may need what is left out; then nothing is.
    """
    _apply_settings()
    added = importlib.metadata.entry_points(group="mlflow.artifact_repository")
    with without_collections(), absent(*(() if added else ("pandas", "pyarrow"))):
        import mlflow  # noqa: F401


def connect(config: TrackingConfig) -> "MlflowClient":
    """Return a client of the store; a SQLite file that does not exist is made."""
    _apply_settings()
    with without_collections():
        from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with store_errors(config), no_empty_folder(config):
        require_reachable(config)
        client = MlflowClient(tracking_uri=config.uri, registry_uri=config.uri)
        client.search_experiments(max_results=1)  # the connection is made and the tables are checked here
        return client


def existing(config: TrackingConfig, wanted: str = "") -> "MlflowClient":
    """Return a client of a store to read from; raises ModelNotFoundError if it is a SQLite file that does not exist.

    Args:
        config: names the store.
        wanted: what is to be read, for the error; left out, the registered model.
    """
    path = sqlite_path(config.uri)
    if path is not None and not path.is_file():  # connecting would make it
        raise _not_found(wanted or config.model, config, "; there is no such file")
    return connect(config)


def _apply_settings() -> None:
    spare_loopback()  # a tracking server on this machine
    for name, value in _MLFLOW_SETTINGS.items():
        os.environ.setdefault(name, value)


def log_bundle(
    client: "MlflowClient", config: TrackingConfig, run_id: str, bundle: Bundle, example: "pd.DataFrame"
) -> str:
    """Log a bundle as a models-from-code pyfunc model of a run.

    Args:
        client: of the store.
        config: names the store.
        run_id: of the run that made the bundle.
        bundle: what is logged.
        example: a history that can be forecast, with the columns unique_id, ds, y and the model's covariates.

    Returns:
        MLflow's id of the model.
    """
    import mlflow.pyfunc
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus
    from mlflow.models import Model

    with store_errors(config), tempfile.TemporaryDirectory(prefix="forecaster-") as name:
        run = client.get_run(run_id)
        model = client.create_logged_model(
            run.info.experiment_id,
            name=_NOT_IN_LOGGED_NAMES.sub("-", config.model),
            source_run_id=run_id,
            params=run.data.params,
        )
        model_id: str = model.model_id
        folder = pathlib.Path(name)
        bundle.save(folder / ARTIFACT)
        mlflow.pyfunc.save_model(
            path=folder / "model",
            python_model=str(pathlib.Path(__file__).with_name("pyfunc_model.py")),
            artifacts={ARTIFACT: str(folder / ARTIFACT)},
            signature=signature(bundle),
            input_example=example,
            pip_requirements=requirements(),
            mlflow_model=Model(artifact_path=model.artifact_location, run_id=run_id, model_id=model_id),
        )
        client.log_model_artifacts(model_id, str(folder / "model"))
        client.finalize_logged_model(model_id, LoggedModelStatus.READY)
        client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])
        return model_id


def register(
    client: "MlflowClient", config: TrackingConfig, model_id: str, *, description: str, tags: Mapping[str, str]
) -> RegisteredModel:
    """Make a logged model the next version of the configured registered model."""
    from mlflow.exceptions import MlflowException

    with store_errors(config):
        try:
            client.create_registered_model(config.model, tags=MODEL_TAGS, description=MODEL_DESCRIPTION)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        logged = client.get_logged_model(model_id)
        made = client.create_model_version(
            config.model,
            source=logged.artifact_location,  # MLflow would look up models:/… in its process-wide store
            run_id=logged.source_run_id,
            tags={**tags, _MODEL_ID: model_id},
            description=description,
            model_id=model_id,
        )
    return _described(made)


def set_alias(client: "MlflowClient", config: TrackingConfig, alias: str, version: str) -> None:
    """Let an alias point at a version, wherever it pointed before."""
    with store_errors(config):
        client.set_registered_model_alias(config.model, alias, version)


def find(client: "MlflowClient", config: TrackingConfig, alias_or_version: str) -> RegisteredModel | None:
    """Return the version that an alias points at, or the version of that number; None if there is none."""
    from mlflow.exceptions import MlflowException

    is_number = _is_number(alias_or_version)
    if is_number and int(alias_or_version) > _LARGEST_VERSION:  # which no store can be asked for
        return None
    look_up = client.get_model_version if is_number else client.get_model_version_by_alias
    with store_errors(config):
        try:
            return _described(look_up(config.model, alias_or_version))
        except MlflowException as error:
            # MLflow calls an unknown alias an invalid parameter.
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise


def _is_number(alias_or_version: str) -> bool:
    return alias_or_version.isascii() and alias_or_version.isdecimal()


def resolve(config: TrackingConfig, alias_or_version: str = CHAMPION) -> RegisteredModel:
    """Return the version that an alias points at, or the version of that number.

    Raises:
        ModelNotFoundError: there is no such store, registered model, alias or version.
        UnavailableError: the store does not answer.
    """
    wanted = f"{config.model} version " if _is_number(alias_or_version) else f"{config.model}@"
    wanted += alias_or_version
    found = find(existing(config, wanted), config, alias_or_version)
    if found is None:
        last = newest(connect(config), config)
        if last is None:
            raise _not_found(wanted, config, "")
        raise ModelNotFoundError(
            f"no version of {config.model} is {alias_or_version}, the newest is {last.version}: train a better one, or"
            f" name it (--serving.alias {last.version}, --version {last.version})",
            [wanted],
        )
    return found


def newest(client: "MlflowClient", config: TrackingConfig) -> RegisteredModel | None:
    """Return the version that was registered last, None if there is none."""
    with store_errors(config):
        found = client.search_model_versions(named("name", config.model), max_results=1000)
    mine = [version for version in found if version.name == config.model]
    return max((_described(version) for version in mine), key=lambda version: int(version.version), default=None)


def named(field: str, name: str) -> str:
    """Return MLflow's filter for a name: compare what is found, it is empty for one with both kinds of quotes.

    MLflow has no way to write such a name.
    """
    quote = '"' if "'" in name else "'"
    return f"{field} = {quote}{name}{quote}" if quote not in name else ""


def load_bundle(config: TrackingConfig, alias_or_version: str = CHAMPION) -> tuple[RegisteredModel, Bundle]:
    """Return a registered version and its bundle, read from its two files.

    Raises:
        ModelNotFoundError: like `resolve`, or the version's files are gone.
        BundleError: the files are not a whole bundle.
    """
    found = resolve(config, alias_or_version)
    with tempfile.TemporaryDirectory(prefix="forecaster-") as scratch:
        folder = bundle_folder(connect(config), config, found.name, found.version, pathlib.Path(scratch))
        return found, Bundle.load(folder)


def _described(version: "ModelVersion") -> RegisteredModel:
    uri = f"models:/{version.name}/{version.version}"
    return RegisteredModel(
        version.name,
        str(version.version),
        uri,
        version.run_id or "",
        tuple(version.aliases),
        version.model_id or version.tags.get(_MODEL_ID, ""),
        dict(version.tags),
    )


def _not_found(wanted: str, config: TrackingConfig, why: str) -> ModelNotFoundError:
    return ModelNotFoundError(
        f"no model is registered as {wanted} in {without_password(config.uri)}{why}: run `forecaster train` first,"
        " or name another store with --tracking.uri",
        [wanted],
    ).told_as(f"no model is registered as {wanted}: train it first")
