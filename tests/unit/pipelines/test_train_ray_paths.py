"""What Ray's workers, who run in folders of their own, are told of paths."""

import pathlib

import pytest

from forecaster.config import Config, IngestConfig, TrackingConfig, TrainingConfig
from pipelines.training.ray import _absolute


def test_no_path_depends_on_the_folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here = tmp_path.resolve()
    given = Config(
        tracking=TrackingConfig(uri="sqlite:///mlflow.db", artifacts="kept"),
        training=TrainingConfig(checkpoint_dir="checkpoints"),
        ingest=IngestConfig(output="meters"),
    )
    found = _absolute(given)
    assert (found.tracking.uri, found.tracking.artifacts) == (f"sqlite:///{here}/mlflow.db", f"{here}/kept")
    assert (found.training.checkpoint_dir, found.ingest.output) == (f"{here}/checkpoints", f"{here}/meters")
    assert _absolute(found) == found


@pytest.mark.parametrize(
    ("uri", "artifacts", "told"),
    [
        ("file:mlruns", None, "file://{here}/mlruns"),
        ("file:./mlruns", None, "file://{here}/mlruns"),
        ("file:///srv/mlruns", "s3://bucket/x", "file:///srv/mlruns"),
        ("http://mlflow:5000", None, "http://mlflow:5000"),
    ],
)
def test_stores_of_other_kinds(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, uri: str, artifacts: str | None, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    found = _absolute(Config(tracking=TrackingConfig(uri=uri, artifacts=artifacts))).tracking
    assert (found.uri, found.artifacts) == (told.format(here=tmp_path.resolve()), artifacts)
