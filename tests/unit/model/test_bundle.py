"""A model on disk: it comes back exact, and a broken one is refused by name."""

import dataclasses
import json
import pathlib

import pytest
import safetensors.torch
import torch

from forecaster.config import ModelConfig
from forecaster.errors import BundleError
from forecaster.model.bundle import CONFIG_FILE, WEIGHTS_FILE, Bundle
from forecaster.model.seq2seq import Seq2Seq

HOUR_US = 3_600_000_000


@pytest.fixture
def bundle() -> Bundle:
    torch.manual_seed(1)
    model = Seq2Seq(ModelConfig(hidden_size=4, decoder_size=4, horizon=3, season_lengths=(3,)), HOUR_US)
    return Bundle.of(model, frequency="1h", max_gap_steps=50)


def test_it_comes_back_exact(bundle: Bundle, tmp_path: pathlib.Path) -> None:
    bundle.save(tmp_path / "b")
    back = Bundle.load(tmp_path / "b")
    assert (back.fingerprint, back.frequency, back.max_gap_steps) == (bundle.fingerprint, "1h", 50)
    assert back.model.config == bundle.model.config
    for name, tensor in bundle.model.state_dict().items():
        assert torch.equal(back.model.state_dict()[name], tensor)


def test_another_weight_is_another_fingerprint(bundle: Bundle) -> None:
    with torch.no_grad():
        next(iter(bundle.model.parameters())).view(-1)[0] += 1e-6
    assert Bundle.of(bundle.model, frequency="1h", max_gap_steps=50).fingerprint != bundle.fingerprint
    assert Bundle.of(bundle.model, frequency="1h", max_gap_steps=51).fingerprint != bundle.fingerprint


def test_a_missing_file_is_named(bundle: Bundle, tmp_path: pathlib.Path) -> None:
    bundle.save(tmp_path)
    (tmp_path / WEIGHTS_FILE).unlink()
    with pytest.raises(BundleError, match=WEIGHTS_FILE):
        Bundle.load(tmp_path)
    with pytest.raises(BundleError, match=CONFIG_FILE):
        Bundle.load(tmp_path / "nowhere")


def test_a_torn_file_is_named(bundle: Bundle, tmp_path: pathlib.Path) -> None:
    bundle.save(tmp_path)
    path = tmp_path / WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(BundleError, match=WEIGHTS_FILE):
        Bundle.load(tmp_path)


@pytest.mark.parametrize("change", ["nan", "shape", "drop", "value"])
def test_wrong_weights_are_refused(bundle: Bundle, tmp_path: pathlib.Path, change: str) -> None:
    bundle.save(tmp_path)
    weights = {name: tensor.clone() for name, tensor in bundle.model.state_dict().items()}
    name = next(iter(weights))
    if change == "nan":
        weights[name].view(-1)[0] = float("nan")
    elif change == "shape":
        weights[name] = weights[name][:-1].clone()
    elif change == "drop":
        del weights[name]
    else:
        weights[name].view(-1)[0] += 1
    safetensors.torch.save_file(weights, tmp_path / WEIGHTS_FILE)
    expected = {"nan": "not finite", "shape": "does not fit", "drop": "does not fit", "value": "was changed"}
    with pytest.raises(BundleError, match=expected[change]):
        Bundle.load(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 99}'])
def test_another_config_is_refused(bundle: Bundle, tmp_path: pathlib.Path, text: str) -> None:
    bundle.save(tmp_path)
    (tmp_path / CONFIG_FILE).write_text(text)
    with pytest.raises(BundleError, match=CONFIG_FILE):
        Bundle.load(tmp_path)


def test_an_unknown_field_is_named(bundle: Bundle, tmp_path: pathlib.Path) -> None:
    bundle.save(tmp_path)
    described = json.loads((tmp_path / CONFIG_FILE).read_text())
    described["model"]["attention"] = "additive"
    (tmp_path / CONFIG_FILE).write_text(json.dumps(described))
    with pytest.raises(BundleError, match="attention"):
        Bundle.load(tmp_path)


def test_a_bundle_of_before_keeps_its_statistics(bundle: Bundle, tmp_path: pathlib.Path) -> None:
    """A configuration that does not say which statistics a model was trained with means the plain ones."""
    config = dataclasses.replace(bundle.model.config, statistics="plain")
    old = Bundle.of(Seq2Seq(config, HOUR_US), frequency="1h", max_gap_steps=50)
    old.save(tmp_path / "a")
    assert "statistics" not in json.loads((tmp_path / "a" / CONFIG_FILE).read_text())["model"]
    back = Bundle.load(tmp_path / "a")
    assert back.model.config.statistics == "plain"
    back.save(tmp_path / "b")
    assert Bundle.load(tmp_path / "b").fingerprint == old.fingerprint
    assert bundle.model.config.statistics == "robust"
    bundle.save(tmp_path / "c")
    assert Bundle.load(tmp_path / "c").model.config.statistics == "robust"
