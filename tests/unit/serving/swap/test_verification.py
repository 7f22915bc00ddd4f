"""A version is checked alike wherever the server loads it: at its start as at an activation, out of a real registry."""

import json
import pathlib

import pytest

from forecaster.config import Config, ServingConfig, TrackingConfig
from forecaster.errors import BundleError
from forecaster.model.bundle import CONFIG_FILE, Bundle
from forecaster.registry import registry
from forecaster.serving.host import open_sources
from forecaster.serving.swap.verification import load_verified
from tests.unit.registry.test_registry import add_version
from tests.unit.serving.folding import make_bundle


@pytest.fixture
def folder(tracking: TrackingConfig, tmp_path: pathlib.Path) -> pathlib.Path:
    """Return the folder of the bundle that is the champion of a store."""
    made = add_version(tracking, make_bundle())
    registry.set_alias(registry.connect(tracking), tracking, registry.CHAMPION, made.version)
    (found,) = tmp_path.glob("**/artifacts/bundle")
    return found


def overflow(folder: pathlib.Path) -> None:
    bundle = make_bundle()
    for parameter in bundle.model.parameters():
        parameter.data.fill_(1e38)
    Bundle.of(bundle.model, frequency="1h", max_gap_steps=20).save(folder)


def change(folder: pathlib.Path, **fields: object) -> None:
    described = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps(described | fields))


def test_a_start_refuses_what_an_activation_refuses(
    folder: pathlib.Path, tracking: TrackingConfig, tmp_path: pathlib.Path
) -> None:
    config = Config(tracking=tracking, serving=ServingConfig(state=str(tmp_path / "state")))
    for source in open_sources(config):
        source.storage.close()
    for damage, why in (
        (overflow, "forecast of a sine is not all finite"),
        (lambda at: change(at, step_us=0), "step_us has to be a whole number from 1"),
        (lambda at: change(at, max_gap_steps=-1), "max_gap_steps has to be a whole number from 0"),
        (lambda at: (at / CONFIG_FILE).write_text("[" * 100_000), "nested too deeply"),
    ):
        damage(folder)
        with pytest.raises(BundleError, match=why):
            load_verified(tracking, "1", make_bundle())  # as an activation does
        with pytest.raises(BundleError, match=why):
            open_sources(config)
        make_bundle().save(folder)


def test_sources_that_are_no_files(tracking: TrackingConfig, folder: pathlib.Path) -> None:
    client = registry.connect(tracking)
    made = client.create_model_version(tracking.model, source="https://127.0.0.1:1/x")
    with pytest.raises(BundleError, match=r"cannot be read from https://127\.0\.0\.1:1/x") as refused:
        registry.load_bundle(tracking, str(made.version))
    assert "127.0.0.1" not in refused.value.told


@pytest.mark.parametrize("version", ["9" * 20, "2147483648", "99", "³", "nobody"])
def test_a_version_that_there_cannot_be_is_not_found(
    tracking: TrackingConfig, folder: pathlib.Path, version: str
) -> None:
    with pytest.raises(registry.ModelNotFoundError) as missing:
        registry.resolve(tracking, version)
    assert str(folder.parents[5]) not in missing.value.told
