"""What failed for good is not tried again by itself, what may pass is; and clients learn no places of the machine."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from forecaster.config import ServingConfig, TrackingConfig
from forecaster.errors import BundleError, ForecasterError, StorageError, UnavailableError
from forecaster.model.bundle import Bundle
from forecaster.registry import registry
from forecaster.registry.registry import RegisteredModel
from forecaster.serving.storage.contract import Storage
from forecaster.serving.swap.version import Failure, ModelState, Version
from forecaster.serving.swap.versions import Versions
from tests.unit.serving.folding import make_bundle, walk
from tests.unit.serving.swapping import A, B, Fleet, run

# Its states grow without bound: that shows after a thousand steps of one series, and not at a probe.
GROWING = make_bundle(5, cell="rnn_relu", initialization="identity", hidden_size=16)
CONFIG = ServingConfig(durability="interval", replay_steps=10_000)


class Registry:
    """Whose alias stands at version 2; counts how often that is loaded.

    Args:
        version: what is loaded, or why it cannot be.
    """

    def __init__(self, version: Bundle | ForecasterError, monkeypatch: pytest.MonkeyPatch) -> None:
        self.version, self.loads = version, 0
        monkeypatch.setattr(registry, "resolve", lambda _, alias="champion": RegisteredModel("m", "2", "", ""))
        monkeypatch.setattr(registry, "load_bundle", self._load)

    def _load(self, _: TrackingConfig, version: str = "champion") -> tuple[RegisteredModel, Bundle]:
        self.loads += 1
        if isinstance(self.version, ForecasterError):
            raise self.version
        return RegisteredModel("m", "2", "", ""), self.version


async def ended(versions: Versions) -> Version:
    """Look once, wait until what that began has ended, and return version 2."""
    await versions.look()
    while (version := versions.find("2")) is None or version.is_coming:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0)
    while versions.is_busy:
        await asyncio.sleep(0.01)
    return version


def with_versions(
    storage: Storage, scenario: Callable[[Fleet, Versions], object], bundles: Mapping[str, Bundle]
) -> None:
    async def whole() -> None:
        fleet = Fleet(storage, bundles)
        with ThreadPoolExecutor(1) as pool, closing(storage.beside()) as beside:
            async with fleet.running():
                for k in range(3):
                    await fleet.observe(walk(f"s{k}", range(3000 if k else 30), k))
                first = RegisteredModel("m", "1", "", "")
                tracking = TrackingConfig(model="m")
                versions = Versions(tracking, CONFIG, first, fleet.engine, fleet.batcher, beside, pool)
                await scenario(fleet, versions)
                await versions.close()

    run(whole)


@pytest.mark.parametrize(
    ("version", "told"),
    [
        (GROWING, "not finite"),
        (
            BundleError("/srv/models/config.json is not JSON").told_as("config.json is not JSON"),
            "config.json is not JSON",
        ),
        (StorageError("/srv/state: gone").told_as("the journal does not fit").for_good(), "the journal does not fit"),
    ],
)
def test_what_failed_for_good_is_tried_once(
    version: Bundle | ForecasterError, told: str, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Registry(version, monkeypatch)

    async def scenario(fleet: Fleet, versions: Versions) -> None:
        failed = await ended(versions)
        assert (failed.state, known.loads) == (ModelState.FAILED, 1)
        assert failed.failure.is_permanent
        assert told in str(failed.failure)
        assert "/srv" not in str(failed.failure)
        for _ in range(5):
            failed.changed -= 100_000
            assert await ended(versions) is failed
        assert known.loads == 1
        known.version = B  # somebody has mended it, and says so
        await versions.activate("2")
        assert (await ended(versions)).state is ModelState.ACTIVE

    with_versions(storage, scenario, {"1": A, "2": B})


def test_what_may_pass_is_tried_again_more_and_more_seldom(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    known = Registry(UnavailableError("sqlite:///srv/mlflow.db: away").told_as("the model store is away"), monkeypatch)

    async def scenario(fleet: Fleet, versions: Versions) -> None:
        for attempt, seconds in enumerate([60, 120, 240, 480, 960, 1920, 3600, 3600], start=1):
            failed = await ended(versions)
            assert failed.failure == Failure("the model store is away", attempt, is_permanent=False)
            assert (known.loads, failed.failure.retry_seconds) == (attempt, seconds)
            failed.changed -= seconds - 30
            assert await ended(versions) is failed
            failed.changed -= 31
        known.version = B
        assert (await ended(versions)).state is ModelState.ACTIVE
        await fleet.check()

    with_versions(storage, scenario, {"1": A, "2": B})
