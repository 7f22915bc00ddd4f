"""A model on disk: `config.json` and `model.safetensors` in one folder; no pickle, nothing to execute.

Knows nothing of MLflow; `forecaster.registry` logs such a folder and finds it again.
"""

import dataclasses
import hashlib
import json
import pathlib
from dataclasses import dataclass
from typing import Any

import safetensors
import safetensors.torch
import torch

from forecaster.config import ModelConfig, to_dict
from forecaster.errors import BundleError, ConfigError
from forecaster.model.covariates import CovariateSpec
from forecaster.model.ensemble import Ensemble, Model
from forecaster.model.seq2seq import Seq2Seq

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
_FORMAT = 2
# What a bundle means that was written before a field was known. Such values are not written either, so that the
# fingerprint of a bundle that is read and written again is what it was.
_BEFORE = {"statistics": "plain"}


@dataclass(frozen=True, slots=True)
class Bundle:
    """A model with what is needed to feed it.

    Args:
        model: the network, in evaluation mode.
        frequency: the time step as written in the data's configuration, for example `1h`.
        max_gap_steps: a longer gap makes a series start afresh.
        fingerprint: SHA-256 over configuration and weights; every state carries it.
    """

    model: Model
    frequency: str
    max_gap_steps: int
    fingerprint: str

    @property
    def step_us(self) -> int:
        """The time step in microseconds."""
        return self.model.step_us

    @classmethod
    def of(cls, model: Model, *, frequency: str, max_gap_steps: int) -> "Bundle":
        """Return a bundle of a trained network, which is put into evaluation mode."""
        model = model.cpu().eval()
        described = _describe(model, frequency, max_gap_steps)
        return cls(model, frequency, max_gap_steps, fingerprint(described, model.state_dict()))

    def save(self, folder: pathlib.Path) -> None:
        """Write the two files into `folder`, which is made if need be."""
        folder.mkdir(parents=True, exist_ok=True)
        described = _describe(self.model, self.frequency, self.max_gap_steps)
        text = json.dumps({**described, "fingerprint": self.fingerprint}, indent=2)
        (folder / CONFIG_FILE).write_text(text + "\n")
        weights = {name: tensor.contiguous() for name, tensor in self.model.state_dict().items()}
        safetensors.torch.save_file(weights, folder / WEIGHTS_FILE)

    @classmethod
    def load(cls, folder: pathlib.Path) -> "Bundle":
        """Read a bundle and check it.

        Raises BundleError if a file is missing or torn, the weights do not fit the configuration, a weight
        is not finite, or the fingerprint is another one.
        """
        described = _read_config(folder / CONFIG_FILE)
        try:
            stored = described.pop("fingerprint")
            config = _model_config(described["model"])
            covariates = CovariateSpec.from_dict(described["covariates"])
            members, step_us = int(described.get("members", 1)), int(described["step_us"])
            networks = [Seq2Seq(config, step_us, covariates) for _ in range(members)]
            model: Model = networks[0] if len(networks) == 1 else Ensemble(networks)
            frequency, max_gap_steps = str(described["frequency"]), int(described["max_gap_steps"])
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"{folder / CONFIG_FILE} does not describe a model: {error}") from error
        weights = _read_weights(folder / WEIGHTS_FILE)
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise BundleError(f"{folder / WEIGHTS_FILE} does not fit {CONFIG_FILE}: {error}") from error
        broken = [name for name, tensor in weights.items() if not torch.isfinite(tensor).all()]
        if broken:
            raise BundleError(f"{folder / WEIGHTS_FILE} holds values that are not finite, in {', '.join(broken)}")
        found = fingerprint(described, model.state_dict())
        if found != stored:
            raise BundleError(f"{folder} was changed: fingerprint {found[:12]}, {CONFIG_FILE} says {stored[:12]}")
        return cls(model.eval(), frequency, max_gap_steps, found)


def fingerprint(described: dict[str, Any], weights: dict[str, torch.Tensor]) -> str:
    """Return the SHA-256 over a configuration and named weights, independent of their order."""
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _describe(model: Model, frequency: str, max_gap_steps: int) -> dict[str, Any]:
    members = {"members": len(model.members)} if isinstance(model, Ensemble) else {}
    return members | {
        "format": _FORMAT,
        "frequency": frequency,
        "step_us": model.step_us,
        "max_gap_steps": max_gap_steps,
        "model": {k: v for k, v in to_dict(model.config).items() if k not in _BEFORE or v != _BEFORE[k]},
        "covariates": model.covariates.to_dict(),
    }


def _model_config(fields: dict[str, Any]) -> ModelConfig:
    known = {f.name for f in dataclasses.fields(ModelConfig)}
    if unknown := sorted(set(fields) - known):
        raise ConfigError(f"unknown model fields {', '.join(unknown)}: made by a newer version?")
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    return ModelConfig(**(_BEFORE | values))


def _read_config(path: pathlib.Path) -> dict[str, Any]:
    try:
        described = json.loads(path.read_text())
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise BundleError(f"{path} is not JSON: {error}") from error
    if not isinstance(described, dict) or described.get("format") != _FORMAT:
        raise BundleError(f"{path} is not a bundle of format {_FORMAT}")
    return described


def _read_weights(path: pathlib.Path) -> dict[str, torch.Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise BundleError(f"{path} cannot be read: {error}") from error
