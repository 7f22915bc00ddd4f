"""Whether a registered version can be used: a process of its own loads it, observes, and forecasts from it.

What becomes champion is served to everybody. A fault of a combination of options, of the files in the store, or of this
installation shows here, and not when the server follows the alias.

Knows how the process is started and what it says; what it does is `forecaster.serving.trial_process`.
"""

import json
import os
import pathlib
import site
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import Any

import polars as pl

from forecaster.config import TrackingConfig, to_dict
from forecaster.errors import UnavailableError

TRIED = "trial"  # a version's tag: passed, or why not
PASSED = "passed"
SECONDS = 600.0
_SERIES, _ROWS = 8, 512  # of the data, the last rows of each
_MOST_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class TrialVerdict:
    """What became of a trial.

    Args:
        failure: why the version cannot be used, as in "it …"; empty if it can.
        series: how many were forecast.
    """

    failure: str
    series: int = 0

    @property
    def passed(self) -> bool:
        """Whether the version can be used."""
        return not self.failure

    @property
    def tag(self) -> str:
        """What the version's tag `trial` says."""
        return self.failure or PASSED


def try_version(
    tracking: TrackingConfig, version: str, rows: pl.DataFrame | None = None, *, seconds: float = SECONDS
) -> TrialVerdict:
    """Let another process load a registered version, observe rows and forecast what follows.

    Args:
        tracking: of the registry, with the model's name.
        version: its number.
        rows: canonical, of which some series' last ones are observed; left out, only a made-up series is.
        seconds: how long it may take.

    Raises UnavailableError if the model store cannot be asked: that says nothing of the version.
    """
    with tempfile.TemporaryDirectory(prefix="forecaster-") as name:
        path = None
        if rows is not None:
            path = pathlib.Path(name) / "rows.parquet"
            _some(rows).write_parquet(path)
        asked = {"tracking": to_dict(tracking), "version": version, "rows": path and str(path)}
        try:
            ended = subprocess.run(
                [sys.executable, "-P", "-m", "forecaster.serving.trial_process"],
                input=json.dumps(asked).encode(),
                capture_output=True,
                env=_environment(),
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return TrialVerdict(f"did not load, observe and forecast within {seconds:g} s")
    said = _read(ended.stdout)
    if said is None:
        last = ended.stderr.decode(errors="replace").strip().splitlines()[-1:]
        why = "".join(f": {line}" for line in last)[:_MOST_CHARACTERS]
        return TrialVerdict(f"ended the process that tried it (exit status {ended.returncode}){why}")
    if said["unavailable"]:
        raise UnavailableError(said["failure"])
    return TrialVerdict(said["failure"][:_MOST_CHARACTERS], said["series"])


def _some(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the last rows of some series."""
    names = rows["unique_id"].unique(maintain_order=True).head(_SERIES)
    some = rows.filter(pl.col("unique_id").is_in(names.to_list())).sort("unique_id", "ds", maintain_order=True)
    return some.group_by("unique_id", maintain_order=True).tail(_ROWS)


def _environment() -> dict[str, str]:
    """Return the environment, in which this very package is found though it is not installed."""
    root = str(pathlib.Path(__file__).resolve().parents[2])
    paths = [] if root in site.getsitepackages() else [root]
    return os.environ | {"PYTHONPATH": os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])])}


def _read(output: bytes) -> dict[str, Any] | None:
    """Return what the process said in its last line, None if it did not get so far."""
    try:
        said = json.loads(output.strip().splitlines()[-1])
    except (IndexError, ValueError):
        return None
    return said if isinstance(said, dict) and said.keys() == {"failure", "unavailable", "series"} else None
