"""The classes that a column of a layer names, through a class map (`footprints.config.ClassMap`).

Values are compared as text, because columns change their type: a code 12 is 12.0 in a column with
gaps, and "12" in a Shapefile's text field.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Collection, Mapping

import numpy as np
from geopandas import GeoDataFrame
from numpy.typing import NDArray

from footprints.errors import LabelWarning, LayerError

_NAMED = 10
"""Values an error names; a column of OpenStreetMap has hundreds."""


def read_classes(
    layer: GeoDataFrame, column: str, class_map: Mapping[str, str | None], *, name: str
) -> NDArray[np.object_]:
    """The class of each row.

    Args:
        layer: Any layer with the column.
        column: Text, numbers or booleans.
        class_map: Values to classes, or to None; values that are no key are classes themselves.
        name: What messages call the layer.

    Returns:
        (n,) names; None for rows without a class: mapped to None, or empty and not mapped.

    Raises:
        LayerError: The column is missing; names those that are there.

    Warns:
        LabelWarning: Values are empty and not mapped; says how many.
    """
    values = read_values(layer, column, name=name)
    empty = int((values == "").sum())
    if empty and "" not in class_map:
        warnings.warn(
            f"{name}: column {column!r} is empty in {empty} of {len(values)} rows, which are left "
            f'out; map the empty value, "", to a class or to null',
            LabelWarning,
            stacklevel=3,
        )
    class_of: dict[str, str | None] = {"": None, **class_map}
    return np.array([class_of.get(value, value) for value in values], dtype=object)


def read_values(layer: GeoDataFrame, column: str, *, name: str) -> NDArray[np.object_]:
    """(n,) values of a column as text; NULL and blank text are ``""``.

    Raises:
        LayerError: The column is missing; names those that are there.
    """
    require_column(layer, column, name=name)
    values, is_null = layer[column].to_numpy(dtype=object), layer[column].isna()
    texts = ["" if null else _as_text(value) for value, null in zip(values, is_null, strict=True)]
    return np.array(texts, dtype=object)


def require_column(layer: GeoDataFrame, column: str, *, name: str) -> None:
    """Raise LayerError, with the columns that are there, where one is missing."""
    if column not in layer.columns:
        known = ", ".join(str(other) for other in layer.columns.drop(layer.geometry.name))
        raise LayerError(f"{name} has no column {column!r}; it has: {known or 'none'}")


def count_values(values: Collection[str]) -> str:
    """Values with their counts, the most frequent first: ``house (12), shed (3)``."""
    counts = Counter(values)
    named = [f"{value} ({count})" for value, count in counts.most_common(_NAMED)]
    others = len(counts) - len(named)
    return ", ".join(named) + (f" and {others} more" if others else "")


def _as_text(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()
