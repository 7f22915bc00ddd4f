"""What the address of a tracking store says: its SQLite file, where its artifacts lie, how it may be shown.

Knows nothing of MLflow's API; opens nothing.
"""

import pathlib
import re
import urllib.parse
import urllib.request
from typing import Any

from forecaster.config import TrackingConfig

ARTIFACT_FOLDER = "mlartifacts"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # mlflow-artifacts:/1, dbfs:/a; one letter is a drive
_URL = re.compile(r"[\w+.-]+://[^\s'\"<>|]+")
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
        return config.artifacts if _SCHEME.match(config.artifacts) else _location(pathlib.Path(config.artifacts))
    path = sqlite_path(config.uri)
    return _location(path.parent / ARTIFACT_FOLDER) if path is not None else None


def _location(folder: pathlib.Path) -> str:
    """Return a folder as MLflow is to be told of it: it decodes `%2F`, and cuts off `#` and `?`, in a path too."""
    path = folder.expanduser().resolve()
    return str(path) if urllib.parse.quote(str(path)) == str(path) else path.as_uri()


def local_path(location: str) -> pathlib.Path | None:
    """Return the path that a location of artifacts means, a path or a file: URI; None if it is elsewhere."""
    if location.startswith("file:"):
        return pathlib.Path(urllib.request.url2pathname(urllib.parse.urlsplit(location).path))
    return None if _SCHEME.match(location) else pathlib.Path(location)


def sqlite_path(uri: str) -> pathlib.Path | None:
    """Return the absolute path of a SQLite store's file, None for any other store; `%3F` in it is a `?`."""
    prefix = "sqlite:///"
    path = urllib.parse.unquote(uri.removeprefix(prefix).partition("?")[0])
    return pathlib.Path(path).resolve() if uri.startswith(prefix) and path not in ("", ":memory:") else None


def sqlite_uri(path: pathlib.Path) -> str:
    """Return the address of a SQLite store by its file, whatever characters its path holds."""
    return "sqlite:///" + str(path).replace("%", "%25").replace("?", "%3F")


def moved(config: TrackingConfig, folder: pathlib.Path) -> pathlib.Path | None:
    """Return where `folder` is now if the database and the artifacts beside it were moved together."""
    path = sqlite_path(config.uri)
    if path is None or ARTIFACT_FOLDER not in folder.parts:
        return None
    inside = folder.parts[len(folder.parts) - folder.parts[::-1].index(ARTIFACT_FOLDER) :]
    return path.parent.joinpath(ARTIFACT_FOLDER, *inside)


def without_passwords(plain: Any) -> Any:
    """Return a configuration, plain dicts and lists, as it may be shown and logged."""
    if isinstance(plain, dict):
        return {name: without_passwords(item) for name, item in plain.items()}
    if isinstance(plain, list):
        return [without_passwords(item) for item in plain]
    return without_password(plain) if isinstance(plain, str) else plain


def without_secrets(text: str, uri: str = "") -> str:
    """Return somebody else's message as it may be shown: no password of any URL in it, nor that of one in other words.

    Args:
        text: what a library or a server says.
        uri: the address that it may repeat, whole or in parts.
    """
    shown = text.replace(uri, without_password(uri)) if uri else text
    for secret in _secrets(uri):
        shown = shown.replace(secret, "***")
    return _URL.sub(lambda found: without_password(found[0]), shown)


def _secrets(uri: str) -> set[str]:
    """Return the passwords of an address, as they stand there and decoded; none so short that words hold it."""
    try:
        parts = urllib.parse.urlsplit(uri)
        named = [value for name, value in urllib.parse.parse_qsl(parts.query) if _SECRET_VALUE.match(f"?{name}=")]
        given = [*named, *([parts.password] if parts.password else [])]
    except ValueError:
        return set()
    return {one for secret in given for one in (secret, urllib.parse.unquote(secret)) if len(one) > 2}


def without_password(uri: str) -> str:
    """Return a store's address as it may be shown and logged: no password, and no value of `?token=` and the like.

    Where it cannot be known what is a password, such as in `scheme://name:x/y@z`, more is hidden rather than less.
    """
    if "://" not in uri:
        return uri
    return _SECRET_VALUE.sub(r"\1***", _PASSWORD.sub(r"\1***@", uri))
