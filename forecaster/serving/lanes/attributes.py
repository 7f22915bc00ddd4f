"""Static covariates by name and a model's state: what holds for which series, and when it may be set.

Names that the model does not know are ignored, those that are not given are unknown.

Shapes: N series, S static numbers, G static categories.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence

import torch

from forecaster.model.bundle import Bundle
from forecaster.model.covariates import with_attributes
from forecaster.model.state import State
from forecaster.serving.storage.records import Attributes
from forecaster.serving.work.observing import ObserveWork

STATIC = ("static_numbers", "static_observed", "static_codes")  # the tensors of a state that hold them


class AttributeCoder:
    """Turns static covariates into the tensors of a model's state.

    Args:
        bundle: the model.
    """

    def __init__(self, bundle: Bundle) -> None:
        spec = bundle.model.covariates
        self._numbers = [covariate.name for covariate in spec.static]
        self._codes = [
            (category.name, {value: k + 1 for k, value in enumerate(category.values)}) for category in spec.categories
        ]
        self._tensors = {tensor.name: torch.empty(0) for tensor in bundle.model.state_spec if tensor.name in STATIC}

    def __bool__(self) -> bool:
        return bool(self._tensors)

    def encode(self, attributes: Attributes) -> State:
        """Return the tensors of N series' static covariates, [N, ...] each."""
        numbers = [[number.get(name, math.nan) for name in self._numbers] for number in attributes.numbers]
        codes = [
            [known.get(category.get(name, ""), 0) for name, known in self._codes] for category in attributes.categories
        ]
        n = len(attributes)
        return with_attributes(
            self._tensors,
            torch.tensor(numbers, dtype=torch.float64).reshape(n, len(self._numbers)),
            torch.tensor(codes, dtype=torch.int64).reshape(n, len(self._codes)),
        )


def digest(numbers: Mapping[str, float], categories: Mapping[str, str]) -> int:
    """Return 64 bits that tell static covariates from others."""
    text = json.dumps([numbers, categories], sort_keys=True)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def merged(parts: Iterable[Attributes]) -> Attributes:
    """Return several records as one; of the same series the last one holds."""
    latest = {name: (part, k) for part in parts for k, name in enumerate(part.series_ids)}
    found = list(latest.values())
    return Attributes(
        tuple(latest),
        tuple(part.numbers[k] for part, k in found),
        tuple(part.categories[k] for part, k in found),
    )


def in_parts(requests: Sequence[ObserveWork]) -> list[Sequence[ObserveWork]]:
    """Cut requests so that all static covariates of a part may be set before all rows of it.

    That is where they come for a series which an earlier request of the part has rows of; and where rows come of a
    series that an earlier one gave some, so that what becomes of a series' rows in a part is told of one request.
    """
    if all(request.attributes is None for request in requests):
        return [requests]
    parts: list[list[ObserveWork]] = [[]]
    names: set[str] = set()
    described: set[str] = set()
    for request in requests:
        given = () if request.attributes is None else request.attributes.series_ids
        if not names.isdisjoint(given) or not described.isdisjoint(request.columns.series_ids):
            parts.append([])
            names, described = set(), set()
        parts[-1].append(request)
        names.update(request.columns.series_ids)
        described.update(given)
    return list(parts)
