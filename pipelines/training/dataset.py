"""The ingested data set, as every later step reads it.

Knows where it lies; how it is made is `ingest`'s, how it is read `forecaster.data`'s.
"""

import dataclasses
import pathlib

from forecaster.config import Config
from forecaster.data.dataset import canonical_names
from forecaster.data.manifest import MANIFEST, Manifest, manifest_at
from forecaster.errors import DataError

__all__ = ["MANIFEST", "ingested", "read_manifest"]


def ingested(config: Config) -> Config:
    """Return the configuration with the data set as its data; raises DataError if nothing was ingested yet."""
    _manifest_path(config)
    data = dataclasses.replace(canonical_names(config.data), path=config.ingest.output)
    return dataclasses.replace(config, data=data)


def read_manifest(config: Config) -> Manifest:
    """Return the data set's manifest; raises DataError if nothing was ingested yet."""
    return Manifest.read(_manifest_path(config))


def _manifest_path(config: Config) -> pathlib.Path:
    found = manifest_at(config.ingest.output)
    if found is None:
        folder = config.ingest.output
        raise DataError(f"there is no data set in {folder}: run `forecaster pipelines ingest` first, or retrain")
    return found
