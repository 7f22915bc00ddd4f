"""The bundled data set: hourly weather of three New York airports in 2013 (see README.md beside it).

Knows where the file is, not what is in it: `forecaster.data.schema` reads it like any other file.
"""

import importlib.resources
from pathlib import Path


def weather_path() -> Path:
    """Return the path of the bundled Parquet file: 18 hourly series in the canonical columns."""
    return Path(str(importlib.resources.files(__name__).joinpath("nyc_weather.parquet")))
