"""Who is champion, previous and challenger, and how they change places.

MLflow moves one alias at a time, and a process can be killed between two of them. Each function here writes in an
order after any part of which `champion` names a version that serves, and called again goes on where it was:

    promote C -> N                      rollback N -> C (C is `previous`)
    1. previous   = C                   1. C is tagged: it is to take N's place
    2. champion   = N                   2. N is the challenger no longer
    3. N is the challenger no longer    3. champion = C
                                        4. previous = N
                                        5. N is tagged: when it was rolled back, and by whom
                                        6. C's tag of step 1 goes

Knows the registry; knows nothing of how good a version is.
"""

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from forecaster.config import TrackingConfig
from forecaster.errors import FailedPreconditionError, ModelNotFoundError
from forecaster.registry.registry import CHALLENGER, CHAMPION, PREVIOUS, RegisteredModel, find, set_alias, store_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient

ROLLED_BACK_AT, ROLLED_BACK_BY = "rolled_back_at", "rolled_back_by"
_TAKING_PLACE_OF = "taking_place_of"


def challenger_of(client: "MlflowClient", config: TrackingConfig) -> RegisteredModel:
    """Return the challenger; raises ModelNotFoundError if there is none."""
    found = find(client, config, CHALLENGER)
    if found is None:
        raise ModelNotFoundError(
            f"no version of {config.model} is the challenger: run `forecaster pipelines train` first, or retrain",
            [f"{config.model}@{CHALLENGER}"],
        )
    return found


def promote(client: "MlflowClient", config: TrackingConfig, version: str) -> RegisteredModel | None:
    """Make a version the champion; the champion before it becomes `previous` and is returned."""
    before = find(client, config, CHAMPION)
    untag(client, config, version, (ROLLED_BACK_AT, ROLLED_BACK_BY, _TAKING_PLACE_OF))
    if before is not None and before.version != version:
        set_alias(client, config, PREVIOUS, before.version)
    set_alias(client, config, CHAMPION, version)
    _end_challenge(client, config, version)
    return before


def rollback(client: "MlflowClient", config: TrackingConfig) -> tuple[RegisteredModel, RegisteredModel]:
    """Make `previous` the champion and the champion `previous`; return the two as they are then.

    One that was interrupted is finished, rather than undone by a second one.

    Raises:
        FailedPreconditionError: there is no version to go back to.
    """
    champion, previous = find(client, config, CHAMPION), find(client, config, PREVIOUS)
    if champion is None or previous is None:
        what = "champion" if champion is None else "version before the champion"
        raise FailedPreconditionError(f"{config.model} has no {what}: there is nothing to go back to")
    begun = champion.tags.get(_TAKING_PLACE_OF)
    if begun is not None and previous.version in (begun, champion.version):
        back, out = champion.version, begun
    elif previous.version != champion.version:
        back, out = previous.version, champion.version
        tag(client, config, back, {_TAKING_PLACE_OF: out})
    else:
        raise FailedPreconditionError(
            f"{config.model} version {champion.version} is champion and previous, as in the midst of a promotion: run"
            " `forecaster pipelines promote` to end it"
        )
    _swap(client, config, back, out)
    return _known(client, config, back), _known(client, config, out)


def _swap(client: "MlflowClient", config: TrackingConfig, back: str, out: str) -> None:
    _end_challenge(client, config, out)  # the next promotion must not bring it back
    set_alias(client, config, CHAMPION, back)
    set_alias(client, config, PREVIOUS, out)
    now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    tag(client, config, out, {ROLLED_BACK_AT: now, ROLLED_BACK_BY: back})
    untag(client, config, back, (ROLLED_BACK_AT, ROLLED_BACK_BY, _TAKING_PLACE_OF))


def tag(client: "MlflowClient", config: TrackingConfig, version: str, tags: Mapping[str, str]) -> None:
    """Set tags of a version."""
    with store_errors(config):
        for name, value in tags.items():
            client.set_model_version_tag(config.model, version, name, value)


def untag(client: "MlflowClient", config: TrackingConfig, version: str, names: Iterable[str]) -> None:
    """Remove tags of a version, of those that it has, in the order of their names' list."""
    held = _known(client, config, version).tags
    with store_errors(config):
        for name in names:
            if name in held:
                client.delete_model_version_tag(config.model, version, name)


def _end_challenge(client: "MlflowClient", config: TrackingConfig, version: str) -> None:
    if CHALLENGER in _known(client, config, version).aliases:
        with store_errors(config):
            client.delete_registered_model_alias(config.model, CHALLENGER)


def _known(client: "MlflowClient", config: TrackingConfig, version: str) -> RegisteredModel:
    found = find(client, config, version)
    if found is None:
        raise FailedPreconditionError(f"{config.model} version {version} was deleted")
    return found
