"""Aliases change places on a real store, and a process killed between any two writes leaves one that works."""

from collections.abc import Callable

import pytest
from mlflow import MlflowClient

from forecaster.config import TrackingConfig
from forecaster.errors import FailedPreconditionError, ModelNotFoundError
from forecaster.registry import aliases, registry
from tests.killing import DyingClient, Killed

OLD, CURRENT, NEW = "1", "2", "3"


@pytest.fixture
def client(tracking: TrackingConfig) -> MlflowClient:
    """Return the client of a store with three versions without files."""
    client = registry.connect(tracking)
    client.create_registered_model(tracking.model)
    for _ in (OLD, CURRENT, NEW):
        client.create_model_version(tracking.model, "nowhere")
    return client


def arrange(client: MlflowClient, tracking: TrackingConfig, **names: str) -> None:
    """Let aliases point where they are told, and no version have a tag."""
    for alias in ("champion", "previous", "challenger"):
        client.delete_registered_model_alias(tracking.model, alias)
        if alias in names:
            client.set_registered_model_alias(tracking.model, alias, names[alias])
    for version in (OLD, CURRENT, NEW):
        for name in client.get_model_version(tracking.model, version).tags:
            client.delete_model_version_tag(tracking.model, version, name)


def names(client: MlflowClient, tracking: TrackingConfig) -> dict[str, str]:
    """Return where the aliases point."""
    return {alias: str(version) for alias, version in client.get_registered_model(tracking.model).aliases.items()}


def tags(client: MlflowClient, tracking: TrackingConfig, version: str) -> dict[str, str]:
    """Return the tags of a version."""
    return dict(client.get_model_version(tracking.model, version).tags)


def kill_everywhere(
    client: MlflowClient,
    tracking: TrackingConfig,
    work: Callable[[MlflowClient], object],
    before: dict[str, str],
    after: dict[str, str],
) -> list[dict[str, str]]:
    """Kill some work before each of its writes, and do it again; return the aliases that each kill left."""
    left = []
    for writes in range(50):
        arrange(client, tracking, **before)
        try:
            work(DyingClient(client, writes))
        except Killed:
            left.append(names(client, tracking))
            work(client)
            assert names(client, tracking) == after
        else:
            return left
    raise AssertionError("it never ends")


def test_promotion_moves_the_old_champion_to_previous_and_ends_the_challenge(
    client: MlflowClient, tracking: TrackingConfig
) -> None:
    arrange(client, tracking, challenger=CURRENT)
    assert aliases.promote(client, tracking, CURRENT) is None
    assert names(client, tracking) == {"champion": CURRENT}
    registry.set_alias(client, tracking, "challenger", NEW)
    before = aliases.promote(client, tracking, NEW)
    assert before is not None
    assert before.version == CURRENT
    assert names(client, tracking) == {"champion": NEW, "previous": CURRENT}
    aliases.promote(client, tracking, NEW)  # again: nothing changes
    assert names(client, tracking) == {"champion": NEW, "previous": CURRENT}
    registry.set_alias(client, tracking, "challenger", OLD)
    aliases.promote(client, tracking, NEW)
    assert names(client, tracking)["challenger"] == OLD  # somebody else's challenge goes on


def test_a_promotion_killed_anywhere_leaves_a_champion_and_ends_when_it_is_run_again(
    client: MlflowClient, tracking: TrackingConfig
) -> None:
    before = {"champion": CURRENT, "previous": OLD, "challenger": NEW}
    after = {"champion": NEW, "previous": CURRENT}
    left = kill_everywhere(client, tracking, lambda one: aliases.promote(one, tracking, NEW), before, after)
    assert [(one["champion"], one["previous"], one["challenger"]) for one in left] == [
        (CURRENT, OLD, NEW),
        (CURRENT, CURRENT, NEW),
        (NEW, CURRENT, NEW),
    ]


def test_a_rollback_says_who_was_replaced_and_a_second_one_undoes_it(
    client: MlflowClient, tracking: TrackingConfig
) -> None:
    arrange(client, tracking, champion=NEW, previous=CURRENT, challenger=NEW)
    back, out = aliases.rollback(client, tracking)
    assert (back.version, out.version) == (CURRENT, NEW)
    assert (back.aliases, out.aliases) == (("champion",), ("previous",))
    assert names(client, tracking) == {"champion": CURRENT, "previous": NEW}
    assert tags(client, tracking, CURRENT) == {}
    assert tags(client, tracking, NEW).keys() == {"rolled_back_at", "rolled_back_by"}
    assert tags(client, tracking, NEW)["rolled_back_by"] == CURRENT
    back, out = aliases.rollback(client, tracking)
    assert (back.version, out.version) == (NEW, CURRENT)
    assert names(client, tracking) == {"champion": NEW, "previous": CURRENT}
    assert tags(client, tracking, NEW) == {}
    assert tags(client, tracking, CURRENT)["rolled_back_by"] == NEW
    aliases.promote(client, tracking, CURRENT)
    assert tags(client, tracking, CURRENT) == {}


def test_a_rollback_killed_anywhere_leaves_a_champion_and_is_finished_not_undone(
    client: MlflowClient, tracking: TrackingConfig
) -> None:
    before = {"champion": NEW, "previous": CURRENT, "challenger": NEW}
    after = {"champion": CURRENT, "previous": NEW}
    left = kill_everywhere(client, tracking, lambda one: aliases.rollback(one, tracking), before, after)
    assert [(one["champion"], one["previous"]) for one in left] == [
        (NEW, CURRENT),
        (NEW, CURRENT),
        (NEW, CURRENT),
        (CURRENT, CURRENT),
        *[(CURRENT, NEW)] * 3,
    ]


def test_there_has_to_be_something_to_go_back_to(client: MlflowClient, tracking: TrackingConfig) -> None:
    with pytest.raises(FailedPreconditionError, match="forecaster has no champion: there is nothing to go back to"):
        aliases.rollback(client, tracking)
    arrange(client, tracking, champion=NEW)
    with pytest.raises(FailedPreconditionError, match="has no version before the champion"):
        aliases.rollback(client, tracking)
    arrange(client, tracking, champion=NEW, previous=NEW)
    with pytest.raises(FailedPreconditionError, match="version 3 is champion and previous, as in the midst"):
        aliases.rollback(client, tracking)
    with pytest.raises(ModelNotFoundError, match="no version of forecaster is the challenger"):
        aliases.challenger_of(client, tracking)
