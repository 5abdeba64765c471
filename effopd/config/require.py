"""The one way in which a dataclass of settings refuses a value. Standard library only."""

from effopd.errors import ConfigError


def require(is_valid: bool, key: str, value: object, rule: str, remedy: str) -> None:
    """Raise ConfigError for `key=value` unless `is_valid`."""
    if not is_valid:
        raise ConfigError(f"{key}={value}: {rule}; {remedy}")
