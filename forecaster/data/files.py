"""Which files a path means, and of which kind each is. Knows nothing of what is in them."""

import difflib
import glob
from pathlib import Path
from typing import Literal

from forecaster.errors import DataError

Kind = Literal["csv", "parquet"]
_KINDS: dict[str, Kind] = {".csv": "csv", ".csv.gz": "csv", ".parquet": "parquet", ".pq": "parquet"}


def find_files(path: str, setting: str = "data.path") -> list[Path]:
    """Return the file at a path, or those that match a glob, by name; raises DataError if there is none."""
    if "://" in path:
        raise DataError(f"{setting}={path!r} is a URL: download it and give the path of the file")
    single = Path(path).expanduser()
    if single.is_dir():
        raise DataError(f"{setting}={path!r} is a folder: give a glob such as '{path.rstrip('/')}/*.parquet'")
    if single.exists():
        return [single]
    if glob.has_magic(path):
        found = sorted(Path(name) for name in glob.glob(str(single), recursive=True) if Path(name).is_file())
        if found:
            return found
        raise DataError(f"no file matches {setting}={path!r} (from {Path.cwd()})")
    beside = [other.name for other in single.parent.iterdir()] if single.parent.is_dir() else []
    near = difflib.get_close_matches(single.name, beside, n=1)
    hint = f"did you mean {str(single.with_name(near[0]))!r}?" if near else f"looked from {Path.cwd()}"
    raise DataError(f"no such file: {setting}={path!r}; {hint}")


def kind_of(path: Path | str) -> Kind:
    """Return whether a file is CSV or Parquet, by its name; raises DataError if that does not tell."""
    for suffix, kind in _KINDS.items():
        if str(path).lower().endswith(suffix):
            return kind
    raise DataError(f"{path} has an unknown extension: use {', '.join(_KINDS)}")
