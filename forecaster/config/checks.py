"""How a wrong value is refused."""

import functools
import types
import typing
from typing import Any

from forecaster.errors import ConfigError, FieldViolation


def require(condition: bool, name: str, value: object, allowed: str) -> None:
    """Raise ConfigError naming the field, the offending value and the allowed range."""
    if not condition:
        message = f"{name}={value!r} is not allowed: use {allowed}"
        raise ConfigError(message, [FieldViolation(name, message)])


def require_types(section: Any, name: str) -> None:
    """Raise ConfigError for a value of another type than its option's: a truth is no number, 2.5 no count of steps.

    The command line reads types itself; this is for those who make the objects.
    """
    for option, kinds in _kinds(section.__class__).items():
        value = getattr(section, option)
        items = value if isinstance(value, tuple | list) else [value]
        for item in items:
            fits = type(item) in kinds or (type(item) is int and float in kinds)
            require(fits or not isinstance(item, bool | int | float), f"{name}.{option}", value, _shown(kinds))


@functools.cache
def _kinds(section: type) -> dict[str, frozenset[type]]:
    """Return the types of numbers and truths that each option takes, of those that take any."""
    hints = typing.get_type_hints(section)
    return {option: frozenset(_plain(hint)) for option, hint in hints.items() if _plain(hint) & {bool, int, float, str}}


def _plain(hint: Any) -> set[type]:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union, tuple):
        return set().union(*(_plain(one) for one in inner))
    if origin is typing.Literal:
        return {type(one) for one in inner}
    return {hint} if isinstance(hint, type) else set()


def _shown(kinds: frozenset[type]) -> str:
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    return " or ".join(word for kind, word in words.items() if kind in kinds)


def require_model_name(name: str, field: str) -> None:
    """Raise ConfigError for a name of a registered model that MLflow does not take."""
    ok = bool(name.strip()) and name.isprintable() and not set(name) & set("/:\\")
    require(ok, field, name, "a name without slashes, backslashes and colons")
