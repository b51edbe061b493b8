"""What all settings have in common: immutable, strict about keys, and ranges by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from footprints.tables import folded, table

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]


def _with_text_keys(given: object) -> object:
    """A class map with its keys as text; JSON knows no others, and columns change their type."""
    if not isinstance(given, Mapping):
        return given
    for key in given:
        if isinstance(key, bool):
            # Not a TypeError: pydantic makes an error of its own of a ValueError only.
            raise ValueError(  # noqa: TRY004
                f"YAML reads yes, no, on and off as booleans, got {key}; put such keys in quotes"
            )
    return {
        "" if key is None else str(key) if isinstance(key, int) else key: name
        for key, name in given.items()
    }


ClassMap = Annotated[dict[str, str | None], BeforeValidator(_with_text_keys)]
"""Values of a column, as text, to names of classes. Empty values are the key ``""``, or null in
YAML. What is mapped to None belongs to no class: what stands there is unknown."""


class Settings(BaseModel):
    """Base of all stages: immutable, and strict about keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def _repr_html_(self) -> str:
        return folded(type(self).__name__, _as_html(self), is_open=True)


S = TypeVar("S", bound=Settings)


def _as_html(settings: Settings) -> str:
    """Settings as tables: what is unlike the defaults, those folded, and each stage below."""
    given: list[tuple[str, str]] = []
    defaults: list[tuple[str, str]] = []
    stages: list[str] = []
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        is_default = not field.is_required() and value == field.get_default()
        parts = value if isinstance(value, tuple) else (value,)
        if any(isinstance(part, Settings) for part in parts):
            for number, part in enumerate(parts, start=1):
                title = name if part is value else f"{name}, {number} of {len(parts)}"
                stages.append(folded(title, _as_html(part), is_open=not is_default))
        else:
            (defaults if is_default else given).append((name, _as_text(value)))
    rest = folded(f"{len(defaults)} as by default", table(defaults, text=True)) if defaults else ""
    return "".join([table(given, text=True) if given else "", rest, *stages])


def _as_text(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(_as_text(each) for each in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_as_text(each)}" for key, each in value.items())
    return "none" if value is None else str(value)
