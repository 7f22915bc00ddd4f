"""Read a data set, just what its manifest lists, into rows that can be checked like those of any other file.

Knows nothing of how a data set is made.
"""

import dataclasses
from pathlib import Path

import polars as pl

from forecaster.config import DataConfig, parse_frequency
from forecaster.data.manifest import Manifest
from forecaster.data.report import FILE, ROW, Place
from forecaster.errors import DataError

_ATTEMPTS = 5  # an ingest may replace files between the manifest and them


def canonical_names(config: DataConfig) -> DataConfig:
    """Return the configuration by which a data set is read: its columns are called unique_id, ds and y."""
    return dataclasses.replace(config, id_column="unique_id", time_column="ds", target_column="y", layout="long")


def read_dataset(path: Path, config: DataConfig) -> tuple[pl.DataFrame, Place]:
    """Return a data set's rows, with the place of each, and what a place is called.

    Args:
        path: of the manifest.
        config: with the frequency that the data set has to be of.

    Raises:
        DataError: it is of another frequency, or a file is missing or broken.
    """
    for attempt in range(_ATTEMPTS):
        manifest = Manifest.read(path)
        if parse_frequency(manifest.frequency) != config.step_us:
            raise DataError(f"{path} is of {manifest.frequency}: set --data.frequency {manifest.frequency}")
        try:
            rows = _load(path.parent, manifest)
        except FileNotFoundError as error:
            if attempt + 1 < _ATTEMPTS and Manifest.read(path) != manifest:
                continue
            raise DataError(
                f"{path} lists a file that is not there ({error.filename}): make the data set anew"
            ) from error
        return rows, Place(tuple(str(path.parent / file.name) for file in manifest.files), "row")
    raise AssertionError("unreachable")


def _load(folder: Path, manifest: Manifest) -> pl.DataFrame:
    frames = []
    for i, file in enumerate(manifest.files):
        frame = read_file(folder / file.name)
        if len(frame) != file.rows:
            raise DataError(f"{folder / file.name} has {len(frame)} rows, not {file.rows}: make the data set anew")
        frames.append(frame.with_row_index(ROW, offset=1).with_columns(pl.lit(i).alias(FILE)))
    rows = pl.concat(frames, how="diagonal")
    series = read_file(folder / manifest.series_file.name).drop("phase_us")
    return rows.join(series, on="unique_id", how="left", maintain_order="left") if series.width > 1 else rows


def read_file(path: Path) -> pl.DataFrame:
    """Return a file of a data set; raises FileNotFoundError, and DataError if it is broken."""
    if not path.is_file():
        raise FileNotFoundError(2, "no such file", str(path))
    try:
        return pl.read_parquet(path, glob=False, hive_partitioning=False)
    except FileNotFoundError as error:
        raise FileNotFoundError(2, "no such file", str(path)) from error
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from error
