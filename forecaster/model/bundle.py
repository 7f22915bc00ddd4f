"""A model on disk: `config.json` and `model.safetensors` in one folder; no pickle, nothing to execute.

Knows nothing of MLflow; `forecaster.registry.registry` logs such a folder and finds it again.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch.overrides import TorchFunctionMode

from forecaster.config import ModelConfig, to_dict
from forecaster.config.frequency import parse_frequency
from forecaster.data.grid import Grid
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
_MOST_CONFIG_BYTES = 8 * 2**20  # categories are what may be long
_MOST_MEMBERS, _LONGEST_STEP_US = 1000, 2**53
_MOST_CHARACTERS = 200
_FILLING = (torch.nn.init.normal_, torch.nn.init.uniform_, torch.Tensor.normal_, torch.Tensor.uniform_)
# What comes of a configuration that somebody wrote by hand, or that was damaged.
_MALFORMED = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError)


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
    def grid(self) -> Grid:
        """The grid that each of its series has."""
        return Grid(self.step_us)

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
        """Read a bundle and check it: what its files say by themselves; whether it forecasts is `verification`'s.

        Sizes are known before anything of them is read or made.

        Raises BundleError if a file is missing, too large or torn, what it describes is no model, the weights do not
        fit the configuration, a weight is not finite, or the fingerprint is another one.
        """
        config_file, weights_file = folder / CONFIG_FILE, folder / WEIGHTS_FILE
        described = _read_config(config_file)
        try:
            plan = _Plan.of(described)
            expected = plan.sizes()
        except _MALFORMED as error:
            raise _broken(config_file, f"does not describe a model: {_line(error)}") from error
        _check_sizes(weights_file, expected)
        weights = _read_weights(weights_file)
        model = plan.make()
        model.load_state_dict(weights)
        broken = [name for name, tensor in weights.items() if not torch.isfinite(tensor).all()]
        if broken:
            raise _broken(weights_file, f"holds values that are not finite, in {', '.join(broken)}")
        found = fingerprint(plan.described, model.state_dict())
        if found != plan.fingerprint:
            stored = plan.fingerprint[:12]
            raise _broken(config_file, f"was changed: the model's fingerprint is {found[:12]}, it says {stored}")
        return cls(model.eval(), plan.frequency, plan.max_gap_steps, found)


class _Plan(NamedTuple):
    """What a configuration says of a model, before there is one.

    Args:
        described: the configuration without the fingerprint.
        config: the architecture.
        covariates: what it knows.
        members: how many networks.
        step_us: the time step in microseconds.
        frequency: the same as text.
        max_gap_steps: see `Bundle`.
        fingerprint: of the configuration and the weights.
    """

    described: dict[str, Any]
    config: ModelConfig
    covariates: CovariateSpec
    members: int
    step_us: int
    frequency: str
    max_gap_steps: int
    fingerprint: str

    @classmethod
    def of(cls, described: dict[str, Any]) -> "_Plan":
        """Read a configuration; raises one of `_MALFORMED` unless it describes a model."""
        rest = {name: value for name, value in described.items() if name != "fingerprint"}
        plan = cls(
            described=rest,
            config=_model_config(described["model"]),
            covariates=CovariateSpec.from_dict(described["covariates"]),
            members=_whole(described.get("members", 1), "members", 1, _MOST_MEMBERS),
            step_us=_whole(described["step_us"], "step_us", 1, _LONGEST_STEP_US),
            frequency=str(described["frequency"]),
            max_gap_steps=_whole(described["max_gap_steps"], "max_gap_steps", 0, 2**31),
            fingerprint=str(described["fingerprint"]),
        )
        if parse_frequency(plan.frequency, "frequency") != plan.step_us:
            raise ValueError(f"a step of {plan.step_us} microseconds is not a frequency of {plan.frequency}")
        plan.covariates.check()
        return plan

    def make(self) -> Model:
        """Return the model, with weights of no meaning."""
        networks = [Seq2Seq(self.config, self.step_us, self.covariates) for _ in range(self.members)]
        return networks[0] if len(networks) == 1 else Ensemble(networks)

    def sizes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the weights by name; nothing is allocated for them."""
        with torch.device("meta"), _Unfilled():
            return {name: tuple(tensor.shape) for name, tensor in self.make().state_dict().items()}


class _Unfilled(TorchFunctionMode):
    """Computes no weights: for tensors without memory that would import torch's compiler, which takes a second."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if func in _FILLING:
            return args[0] if args else named["tensor"]
        return named["out"] if func is torch.eye and "out" in named else func(*args, **named)


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


def _whole(value: Any, name: str, low: int, high: int) -> int:
    """Return a whole number of a range; raises ValueError for anything else."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{name} has to be a whole number from {low} to {high}")
    return value


def _read_config(path: pathlib.Path) -> dict[str, Any]:
    try:
        if (size := path.stat().st_size) > _MOST_CONFIG_BYTES:
            raise _broken(path, f"has {size:,} bytes, more than the {_MOST_CONFIG_BYTES:,} that are read")
        described = json.loads(path.read_text())
    except OSError as error:
        raise _broken(path, f"cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise _broken(path, "is not a configuration: it is nested too deeply") from error
    except ValueError as error:
        raise _broken(path, f"is not JSON: {_line(error)}") from error
    if not isinstance(described, dict) or described.get("format") != _FORMAT:
        raise _broken(path, f"is not a bundle of format {_FORMAT}")
    return described


def _check_sizes(path: pathlib.Path, expected: dict[str, tuple[int, ...]]) -> None:
    """Raise BundleError unless a file holds weights of these shapes; only its header is read."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            names = set(file.keys())
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names & expected.keys()}
    except (OSError, safetensors.SafetensorError) as error:
        raise _unreadable(path, error) from error
    if other := sorted(names ^ expected.keys()):
        raise _broken(
            path, f"does not fit {CONFIG_FILE}: {len(other)} weights are not in both, such as {', '.join(other[:3])}"
        )
    for name, shape in shapes.items():
        if shape != expected[name]:
            raise _broken(path, f"does not fit {CONFIG_FILE}: {name} is {shape}, and should be {expected[name]}")


def _read_weights(path: pathlib.Path) -> dict[str, torch.Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise _unreadable(path, error) from error


def _broken(path: pathlib.Path, what: str) -> BundleError:
    """Return the error of a file, of which clients of a server are told its name and not its place."""
    return BundleError(f"{path} {what}").told_as(f"{path.name} {what}")


def _unreadable(path: pathlib.Path, error: Exception) -> BundleError:
    why = f": {_line(error)}" if isinstance(error, safetensors.SafetensorError) else ""  # others name the place again
    return _broken(path, f"cannot be read{why}")


def _line(error: BaseException) -> str:
    """Return what an error says in one short line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 1] + "…"
