"""A run that is interrupted is ended, whatever the signal came amid."""

import pytest
from sqlalchemy.orm import loading

from forecaster.config import Config, TrackingConfig
from forecaster.registry import registry
from forecaster.training.run.tracking import track


def test_a_signal_amid_a_query_of_the_store_does_not_keep_the_run_from_being_ended(
    tracking: TrackingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes between a SELECT and the guarded fetch of its rows: the open statement keeps SQLite's shared lock."""
    instances, asked = loading.instances, []

    def interrupted(*values: object) -> object:
        if asked:
            asked.clear()
            raise SystemExit(143)
        return instances(*values)

    monkeypatch.setattr(loading, "instances", interrupted)
    client, run_ids = registry.connect(tracking), list[str]()

    def training() -> None:
        with track(Config(tracking=tracking), trigger="test") as run:
            run_ids.append(run.run_id)
            asked.append(True)
            client.get_run(run.run_id)

    with pytest.raises(SystemExit):
        training()
    ended = client.get_run(run_ids[0])
    assert (ended.info.status, ended.data.tags["error"]) == ("KILLED", "SystemExit: 143")
