"""Numbers that users give: in range, or refused in one line that names the option."""

from __future__ import annotations

from numbers import Integral, Real

from footprints.errors import ConfigError


def check_number(value: object, option: str) -> None:
    """Refuse what is no number.

    Args:
        value: What was given.
        option: What the command calls it.

    Raises:
        ConfigError: It is none.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ConfigError(f"{option} must be a number, got {value!r}")


def check_share(value: object, option: str) -> None:
    """Refuse what is no number from 0 to 1; arguments as `check_number`."""
    check_number(value, option)
    if not 0 <= value <= 1:  # type: ignore[operator]  # a number by now
        raise ConfigError(f"{option} must be in [0, 1], got {value}")


def check_count(value: object, option: str) -> None:
    """Refuse what is no whole number from 1 on; arguments as `check_number`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ConfigError(f"{option} must be a whole number from 1 on, got {value!r}")
