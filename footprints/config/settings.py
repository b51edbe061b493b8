"""What all settings have in common: immutable, strict about keys, and ranges by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

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


S = TypeVar("S", bound=Settings)
