"""The run of a search in a real store: found again by whatever name."""

import io

import pytest

from forecaster.config import Config, TrackingConfig
from pipelines.context import Context
from pipelines.tuning.run import TuningRun


@pytest.mark.parametrize("study", ["plain", "o'brien", 'the "best"', """o'brien's "best\""""])
def test_it_is_found_again(tracking: TrackingConfig, study: str) -> None:
    config, context = Config(tracking=tracking), Context(trigger="hand", key="k", stream=io.StringIO())
    made = TuningRun(config, context, study).run_id
    assert TuningRun(config, context, f"{study}2").run_id != made
    assert TuningRun(config, context, study).run_id == made
