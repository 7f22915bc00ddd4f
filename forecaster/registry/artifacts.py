"""Where a store's artifacts lie: those of an experiment, also after a project was moved, and the files of a version.

Knows MLflow's experiments and versions; knows nothing of what is in the files.
"""

import contextlib
import importlib
import logging
import pathlib
import sqlite3
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING

from forecaster.config import TrackingConfig
from forecaster.errors import BundleError, ConfigError, ModelNotFoundError
from forecaster.model.bundle import CONFIG_FILE, WEIGHTS_FILE
from forecaster.registry.store_errors import store_errors
from forecaster.registry.store_uri import (
    ARTIFACT_FOLDER,
    artifact_location,
    local_path,
    moved,
    sqlite_path,
    without_password,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

ARTIFACT = "bundle"
_LOG = logging.getLogger(__name__)
_FOLDER_IN_MODEL = f"artifacts/{ARTIFACT}"  # where MLflow puts the folder among a pyfunc model's files
_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}  # the dashboard shows runs, not chats


def experiment_id(client: "MlflowClient", config: TrackingConfig) -> str:
    """Return the id of the configured experiment, which is made if need be.

    After a project was moved or copied with its store, an experiment would still put its artifacts into the folder that
    it had before: those of new runs go beside the store.

    Raises ConfigError if it exists and keeps its artifacts elsewhere than configured.
    """
    location = artifact_location(config)
    with store_errors(config):
        found = client.get_experiment_by_name(config.experiment)
        if found is None:
            return str(client.create_experiment(config.experiment, artifact_location=location, tags=_EXPERIMENT_TAGS))
    kept = found.artifact_location
    if location is None or _same(kept, location):
        return str(found.experiment_id)
    if config.artifacts is not None:
        raise ConfigError(
            f"experiment {config.experiment!r} keeps its artifacts in {kept}, not in"
            f" {config.artifacts}: leave out --tracking.artifacts or choose another --tracking.experiment"
        )
    if _was_left_behind(config, kept):
        _LOG.warning("experiment %r was moved from %s: new artifacts go to %s", config.experiment, kept, location)
        _relocate(config, str(found.experiment_id), location)
    return str(found.experiment_id)


def _same(one: str, other: str) -> bool:
    return one == other or (local_path(one) is not None and local_path(one) == local_path(other))


def _was_left_behind(config: TrackingConfig, kept: str) -> bool:
    """Return whether a folder of artifacts is that beside the store where it was before: gone, or another store's."""
    store, folder = sqlite_path(config.uri), local_path(kept)
    if store is None or folder is None or folder.name != ARTIFACT_FOLDER:
        return False
    return not folder.exists() or folder.with_name(store.name).is_file()


def _relocate(config: TrackingConfig, experiment: str, location: str) -> None:
    """Tell the store where the artifacts of an experiment's new runs go; MLflow itself has no way to."""
    path = sqlite_path(config.uri)
    assert path is not None
    with store_errors(config):
        try:
            with contextlib.closing(sqlite3.connect(path, timeout=30)) as database, database:
                said = "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?"
                database.execute(said, (location, int(experiment)))
        except sqlite3.Error as error:
            raise OSError(str(error)) from error


def bundle_folder(
    client: "MlflowClient", config: TrackingConfig, name: str, version: str, scratch: pathlib.Path
) -> pathlib.Path:
    """Return the local folder of a version's two files; those of a remote store come to `scratch`.

    Raises ModelNotFoundError if they are gone, and BundleError if they cannot be read from where they are said to lie.
    """
    with store_errors(config):
        location: str = client.get_model_version_download_uri(name, version)
        local = local_path(location)
        if local is None:
            if urllib.parse.urlsplit(location).scheme in ("hdfs", "viewfs"):  # its module was imported without pyarrow
                importlib.reload(importlib.import_module("mlflow.store.artifact.hdfs_artifact_repo"))
            _download(config, f"{name} version {version}", location, scratch)
            return scratch
    folder = local / _FOLDER_IN_MODEL
    decoded = pathlib.Path(urllib.request.url2pathname(str(folder)))  # where MLflow puts what is no URI
    for candidate in (folder, moved(config, folder), decoded):
        if candidate is not None and candidate.is_dir():
            return candidate
    gone = f"the files of {name} version {version} are gone"
    raise ModelNotFoundError(f"{gone}: {folder} does not exist", [name]).told_as(gone)


def _download(config: TrackingConfig, shown: str, location: str, scratch: pathlib.Path) -> None:
    """Bring a version's two files to `scratch`; what this MLflow cannot read is not the store's fault."""
    import mlflow.artifacts
    from mlflow.exceptions import MlflowException

    try:
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            uri = f"{location.rstrip('/')}/{_FOLDER_IN_MODEL}/{name}"
            mlflow.artifacts.download_artifacts(uri, dst_path=str(scratch), tracking_uri=config.uri)
    except (MlflowException, OSError):
        raise
    except Exception as error:
        raise BundleError(
            f"the files of {shown} cannot be read from {without_password(location)}: {type(error).__name__}: {error}"
        ).told_as(f"the files of {shown} cannot be read from where the registry says that they lie") from error
