"""How a wrong value is refused."""

from forecaster.errors import ConfigError, FieldViolation


def require(condition: bool, name: str, value: object, allowed: str) -> None:
    """Raise ConfigError naming the field, the offending value and the allowed range."""
    if not condition:
        message = f"{name}={value!r} is not allowed: use {allowed}"
        raise ConfigError(message, [FieldViolation(name, message)])
