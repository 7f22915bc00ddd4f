"""The ingested data set, as every later step reads it.

Knows where it lies; how it is made is `ingest`'s, how it is read `forecaster.data`'s.
"""

import dataclasses
import pathlib

from forecaster.config import Config
from forecaster.errors import DataError

MANIFEST = "manifest.json"


def ingested(config: Config) -> Config:
    """Return the configuration with the data set as its data; raises DataError if nothing was ingested yet."""
    folder = pathlib.Path(config.ingest.output)
    if not (folder / MANIFEST).is_file():
        raise DataError(f"there is no data set in {folder}: run `python -m pipelines ingest` first, or retrain")
    names = {"id_column": "unique_id", "time_column": "ds", "target_column": "y", "layout": "long"}
    data = dataclasses.replace(config.data, path=str(folder), **names)  # type: ignore[arg-type]  # a dict of texts
    return dataclasses.replace(config, data=data)
