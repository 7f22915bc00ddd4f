"""A model on disk: it comes back exact, and a broken one is refused by name."""

import dataclasses
import json
import math
import pathlib
import tracemalloc

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


DEEP = "[" * 100_000 + "]" * 100_000
BROKEN: dict[str, tuple[dict[str, object], str]] = {
    "negative gap": ({"max_gap_steps": -1}, "max_gap_steps has to be a whole number from 0"),
    "gap of text": ({"max_gap_steps": "50"}, "max_gap_steps has to be a whole number"),
    "no step": ({"step_us": 0}, "step_us has to be a whole number from 1"),
    "endless step": ({"step_us": math.inf}, "step_us has to be a whole number"),
    "another step": ({"step_us": 60_000_000}, "a step of 60000000 microseconds is not a frequency of 1h"),
    "no frequency": ({"frequency": "sometimes"}, "frequency"),
    "no members": ({"members": 0}, "members has to be a whole number from 1"),
    "half a member": ({"members": 1.5}, "members has to be a whole number"),
    "no model": ({"model": []}, "does not describe a model"),
    "no covariates": ({"covariates": 7}, "does not describe a model"),
    "half a horizon": ({"model": {"horizon": 1.5}}, "does not describe a model"),
    "more members": ({"members": 3}, "does not fit"),
    "no deviation": (
        {"covariates": {"past": [{"name": "rain", "mean": 0.0, "deviation": 0.0}]}},
        "the covariate 'rain' has a mean of 0.0 and a deviation of 0.0",
    ),
    "two of a name": ({"covariates": {"past": [{"name": "x"}], "static": [{"name": "x"}]}}, "a name of its own"),
    "huge embedding": ({"covariates": {"categories": [{"name": "x", "values": ["a"], "width": 10**12}]}}, "fit"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_describes_no_model_is_refused_in_a_sentence(bundle: Bundle, tmp_path: pathlib.Path, name: str) -> None:
    """Whose line for strangers does not say where the file lies."""
    bundle.save(tmp_path)
    described = json.loads((tmp_path / CONFIG_FILE).read_text())
    for field, value in BROKEN[name][0].items():
        merges = isinstance(value, dict)
        described[field] = {**described[field], **value} if merges else value  # type: ignore[dict-item]
    (tmp_path / CONFIG_FILE).write_text(json.dumps(described))
    with pytest.raises(BundleError, match=BROKEN[name][1]) as refused:
        Bundle.load(tmp_path)
    assert str(tmp_path) in str(refused.value)
    assert str(tmp_path) not in refused.value.told
    assert len(refused.value.told) < 400


@pytest.mark.parametrize("text", [DEEP, f'{{"format": 2, "model": {DEEP}}}', '{"format": ' + "1" * 5000 + "}"])
def test_json_that_python_does_not_read_is_refused(bundle: Bundle, tmp_path: pathlib.Path, text: str) -> None:
    bundle.save(tmp_path)
    (tmp_path / CONFIG_FILE).write_text(text)
    with pytest.raises(BundleError, match=r"nested too deeply|not JSON"):
        Bundle.load(tmp_path)


def test_sizes_are_known_before_anything_is_read_or_made(bundle: Bundle, tmp_path: pathlib.Path) -> None:
    bundle.save(tmp_path)
    described = json.loads((tmp_path / CONFIG_FILE).read_text())
    described["model"] |= {"hidden_size": 4096, "num_layers": 16, "decoder_size": 4096, "cell": "lstm"}  # 8 GB
    (tmp_path / CONFIG_FILE).write_text(json.dumps(described))
    with pytest.raises(BundleError, match=r"does not fit config\.json"):
        Bundle.load(tmp_path)
    with (tmp_path / CONFIG_FILE).open("r+b") as file:
        file.truncate(200 * 2**20)
    tracemalloc.start()
    with pytest.raises(BundleError, match="has 209,715,200 bytes, more than"):
        Bundle.load(tmp_path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2**20


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
