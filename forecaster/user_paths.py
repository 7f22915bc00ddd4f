"""Paths as people write them, in files that no shell has seen, and in addresses that are read as URIs.

Knows the file system; knows nothing of what the paths are for.
"""

import os
import pathlib

_SQLITE = "sqlite:///"


def at_home(value: str) -> str:
    """Return a path with the user's home in place of a leading `~`, also behind `sqlite:///`; others as they are."""
    prefix = _SQLITE if value.startswith(_SQLITE) else ""
    path = value.removeprefix(prefix)
    return prefix + os.path.expanduser(path) if path == "~" or path.startswith("~/") else value


def literal(address: str) -> str:
    """Return a `sqlite:///` address that means the folder whose very name stands in it, if there is one.

    What reads such addresses takes `%2F` for a slash and all behind a `?` for options: a store in a folder
    `feature%2Fmain` would be made in `feature/main`.
    """
    if not address.startswith(_SQLITE):
        return address
    folder, slash, file = address.removeprefix(_SQLITE).rpartition("/")
    if not any(sign in folder for sign in "%?") or not pathlib.Path(folder).is_dir():
        return address
    quoted = folder.replace("%", "%25").replace("?", "%3F")
    return f"{_SQLITE}{quoted}{slash}{file}"
