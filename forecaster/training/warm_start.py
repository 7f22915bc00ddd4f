"""Weights of an earlier model as the beginning of a training.

Knows architectures and covariates; knows nothing of registries or of how a model is fitted.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from forecaster.config import Config, ModelConfig, to_dict
from forecaster.config.training import StartFrom
from forecaster.model.covariates import Category, CovariateSpec
from forecaster.model.ensemble import Model
from forecaster.model.seq2seq import Seq2Seq
from forecaster.training.processes.ranks import Group

_EMBEDDINGS = "inputs.embeddings.{}.weight"


@dataclass(frozen=True, slots=True)
class Start:
    """Where a training is to begin.

    Args:
        model: an earlier one.
        name: of it, for people.
        say: is told whether it is the beginning, and if not, why.
    """

    model: Model
    name: str
    say: Callable[[str], None]


def begin(config: Config, spec: CovariateSpec, start: Start | None, group: Group) -> tuple[Seq2Seq, StartFrom]:
    """Return the model to train, with fresh weights or with an earlier model's, and which of the two it was.

    Args:
        config: resolved.
        spec: of the training part's covariates.
        start: known to the first process only.
        group: all processes know its model, its weights are sent to them when the training begins.
    """
    step_us, model = config.data.step_us, None
    begun: StartFrom = "scratch"
    if start is not None:
        reason = misfit(start.model, config.model, step_us, spec)
        start.say(f"from scratch, {start.name} does not fit: {reason}" if reason else f"from {start.name}")
        if not reason:
            assert isinstance(start.model, Seq2Seq), "an ensemble does not fit"
            model, begun = continued(start.model, spec), "champion"
            spec = model.covariates
    spec, begun = group.from_first((spec, begun))
    return model or Seq2Seq(config.model, step_us, spec), begun


def misfit(earlier: Model, config: ModelConfig, step_us: int, spec: CovariateSpec) -> str:
    """Return why the weights of a model cannot begin another training, empty if they can.

    Args:
        earlier: the model.
        config: of the training, resolved.
        step_us: of its data.
        spec: of its covariates.
    """
    if not isinstance(earlier, Seq2Seq):
        return "it is an ensemble"
    if earlier.step_us != step_us:
        return "its time step is another"
    then, now = to_dict(earlier.config), to_dict(config)
    if other := [f"model.{name}" for name in now if then[name] != now[name]]:
        return f"another {', '.join(other)}"
    if _names(earlier.covariates) != _names(spec):
        return "other covariates"
    return ""


def continued(earlier: Seq2Seq, spec: CovariateSpec) -> Seq2Seq:
    """Return a fresh copy of a model that knows the categories of other data too.

    Its numbers stay standardised as its weights know them; a new category begins as UNKNOWN. `misfit` has to be empty.
    """
    together = _together(earlier.covariates, spec)
    made = Seq2Seq(earlier.config, earlier.step_us, together)
    weights = {name: tensor.clone() for name, tensor in earlier.state_dict().items()}
    pairs = zip(earlier.covariates.categories, together.categories, strict=True)
    for index, (then, now) in enumerate(pairs):
        name = _EMBEDDINGS.format(index)
        rows = [0, *(then.values.index(value) + 1 if value in then.values else 0 for value in now.values)]
        weights[name] = weights[name][torch.tensor(rows)]
    made.load_state_dict(weights)
    return made


def _together(then: CovariateSpec, now: CovariateSpec) -> CovariateSpec:
    pairs = zip(then.categories, now.categories, strict=True)
    return dataclasses.replace(then, categories=tuple(_union(one, other) for one, other in pairs))


def _union(then: Category, now: Category) -> Category:
    both = Category(then.name, tuple(sorted({*then.values, *now.values})))
    return both if both.embedding_size == then.embedding_size else dataclasses.replace(both, width=then.embedding_size)


def _names(spec: CovariateSpec) -> list[Sequence[str]]:
    return [[one.name for one in part] for part in (spec.past, spec.future, spec.static, spec.categories)]
