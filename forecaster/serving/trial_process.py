"""The process that tries a version, see `forecaster.registry.trial`.

Reads what to try from standard input, and writes the outcome as one line of JSON.
"""

import json
import sys
import traceback
from typing import Any

from forecaster.imports import without_collections


def main() -> None:
    """Try what standard input says."""
    asked = json.loads(sys.stdin.read())
    said: dict[str, Any] = {"failure": "", "unavailable": False, "series": 0}
    with without_collections():
        import polars as pl

        from forecaster.config import TrackingConfig
        from forecaster.errors import ForecasterError, UnavailableError
        from forecaster.serving.trial import try_here

    try:
        rows = None if asked["rows"] is None else pl.read_parquet(asked["rows"])
        said["series"] = try_here(TrackingConfig(**asked["tracking"]), asked["version"], rows)
    except UnavailableError as error:
        said |= {"failure": str(error), "unavailable": True}
    except ForecasterError as error:
        said["failure"] = f"cannot be served: {error}"
    except Exception as error:  # noqa: BLE001 -- whatever it is, the version is not fit for use
        traceback.print_exc()
        said["failure"] = f"cannot be served: {type(error).__name__}: {error}"
    sys.stdout.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    main()
