"""YAML files and plain values to settings; errors name the key, its place and the known keys."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any, cast, get_args

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from footprints.config.settings import ClassMap, S
from footprints.config.training import RunConfig
from footprints.errors import ConfigError


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML configuration.

    ``$NAME`` anywhere in the file stands for that environment variable, and ``$CONFIG_DIR`` for
    the folder of the file.

    Args:
        path: YAML file.
        overrides: ``key.key=value`` strings that win over the file, e.g. ``train.epochs=5``;
            values are YAML.

    Raises:
        ConfigError: The file is missing or not YAML, an environment variable is not set, a key is
            unknown, a value out of range.
    """
    values = _read_yaml(Path(path))
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold sections such as model, data and train")
    for override in overrides:
        _override(values, override)
    return parse_config(RunConfig, values, origin=str(path))


def load_class_map(given: Mapping[Any, Any] | str | Path) -> dict[str, str | None]:
    """Check a class map, or read one from a YAML file.

    Args:
        given: ``{value: class or None}``, or a YAML file that holds as much.

    Raises:
        ConfigError: The file is missing or not YAML, or does not hold such pairs.
    """
    origin, values = "class map", cast(object, given)
    if isinstance(given, str | Path):
        origin, values = str(given), _read_yaml(Path(given))
    try:
        return TypeAdapter(ClassMap).validate_python(values)
    except ValidationError as err:
        first = err.errors()[0]
        raise ConfigError(": ".join([origin, *map(str, first["loc"]), _message(first)])) from err


def _read_yaml(path: Path) -> object:
    names = os.environ | {"CONFIG_DIR": str(path.resolve().parent)}
    try:
        text = Template(path.read_text(encoding="utf-8")).substitute(names)
        return yaml.safe_load(text)
    except OSError as err:
        raise ConfigError(f"cannot read configuration {path}: {err.strerror}") from err
    except KeyError as err:
        raise ConfigError(
            f"{path} uses ${err.args[0]}: set the environment variable {err.args[0]}"
        ) from err
    except (yaml.YAMLError, ValueError) as err:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(err).split())}") from err


def parse_config(kind: type[S], values: Mapping[str, Any], *, origin: str) -> S:
    """Validate plain values as settings; errors name the key, its place and the known keys."""
    try:
        return kind.model_validate(values)
    except ValidationError as err:
        first = err.errors()[0]
        where, settings = _locate(kind, first["loc"])
        if first["type"] == "extra_forbidden":
            known = ", ".join(sorted(settings.model_fields))
            raise ConfigError(f"{origin}: unknown key {where}; known keys: {known}") from err
        parts = (origin, where, _message(first))
        raise ConfigError(": ".join(part for part in parts if part)) from err


def _message(error: ErrorDetails) -> str:
    if error["type"] == "value_error":
        # Rules of ours name the values themselves; a whole section would not fit a line.
        return error["msg"].removeprefix("Value error, ")
    return f"{error['msg']}, got {error['input']!r}"


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set takes key.key=value, got {override!r}")
    *sections, last = key.split(".")
    for section in sections:
        # A section whose keys are all commented out is None.
        values[section] = {} if values.get(section) is None else values[section]
        values = values[section]
        if not isinstance(values, dict):
            raise ConfigError(f"--set {override}: {section} is a value, not a section")
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError as err:
        raise ConfigError(f"--set {override}: {text!r} is not YAML") from err


def _locate(kind: type[BaseModel], location: tuple[int | str, ...]) -> tuple[str, type[BaseModel]]:
    """The key an error is about, and the settings it is among; unions' tags are no keys."""
    keys, kinds = [], [kind]
    for part in location:
        tagged = [k for k in kinds if _tag(k) == part]
        if len(kinds) > 1 and tagged:
            kinds = tagged
            continue
        keys.append(str(part))
        if isinstance(part, str) and part in kinds[0].model_fields:
            kinds = _settings_in(kinds[0].model_fields[part].annotation) or kinds
    return ".".join(keys), kinds[0]


def _tag(kind: type[BaseModel]) -> str | None:
    """The only value that ``kind``, which tells settings of a union apart, can have."""
    field = kind.model_fields.get("kind")
    return None if field is None else get_args(field.annotation)[0]


def _settings_in(annotation: object) -> list[type[BaseModel]]:
    """The settings that a type is made of: itself, the items of a tuple, the choices of a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [kind for part in get_args(annotation) for kind in _settings_in(part)]
