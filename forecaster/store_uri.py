"""What the address of a tracking store says: its SQLite file, where its artifacts lie, how it may be shown.

Knows nothing of MLflow's API; opens nothing.
"""

import pathlib
import re
from typing import Any

from forecaster.config import TrackingConfig

_ARTIFACT_FOLDER = "mlartifacts"
# What databases' drivers take for a password may hold slashes; in http a number before the first slash is a port.
_PASSWORD = re.compile(
    r"(\bhttps?://[^/@:?#]*:(?!\d+(?:[/?#]|$))|(?<!http)(?<!https)://[^/@:?#]*:)(?:[^?#]*|[^@]*)@", re.IGNORECASE
)
_SECRET_VALUE = re.compile(
    r"([?&][^=&]*(?:password|passwd|pwd|token|signature|secret|sig|key|odbc_connect)[^=&]*=)[^&]*", re.IGNORECASE
)


def artifact_location(config: TrackingConfig) -> str | None:
    """Return where an experiment's artifacts go: as configured, else beside a SQLite file, else MLflow's choice."""
    if config.artifacts is not None:
        return config.artifacts if "://" in config.artifacts else str(pathlib.Path(config.artifacts).resolve())
    path = sqlite_path(config.uri)
    return str(path.parent / _ARTIFACT_FOLDER) if path is not None else None


def sqlite_path(uri: str) -> pathlib.Path | None:
    """Return the absolute path of a SQLite store's file, None for any other store."""
    prefix = "sqlite:///"
    path = uri.removeprefix(prefix).partition("?")[0]
    return pathlib.Path(path).resolve() if uri.startswith(prefix) and path not in ("", ":memory:") else None


def moved(config: TrackingConfig, folder: pathlib.Path) -> pathlib.Path | None:
    """Return where `folder` is now if the database and the artifacts beside it were moved together."""
    path = sqlite_path(config.uri)
    if path is None or _ARTIFACT_FOLDER not in folder.parts:
        return None
    inside = folder.parts[len(folder.parts) - folder.parts[::-1].index(_ARTIFACT_FOLDER) :]
    return path.parent.joinpath(_ARTIFACT_FOLDER, *inside)


def without_passwords(plain: Any) -> Any:
    """Return a configuration, plain dicts and lists, as it may be shown and logged."""
    if isinstance(plain, dict):
        return {name: without_passwords(item) for name, item in plain.items()}
    if isinstance(plain, list):
        return [without_passwords(item) for item in plain]
    return without_password(plain) if isinstance(plain, str) else plain


def without_password(uri: str) -> str:
    """Return a store's address as it may be shown and logged: no password, and no value of `?token=` and the like.

    Where it cannot be known what is a password, such as in `scheme://name:x/y@z`, more is hidden rather than less.
    """
    if "://" not in uri:
        return uri
    return _SECRET_VALUE.sub(r"\1***", _PASSWORD.sub(r"\1***@", uri))
