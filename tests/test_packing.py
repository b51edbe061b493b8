"""What the viewer is given: outlines, triangles and columns come back as they were."""

import base64
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from known_town import TOWN

from footprints.packing import MOST_TEXT, NOTHING, STEP, pack, pack_layer

ARRAYS = {"u8": "u1", "u16": "<u2", "u32": "<u4", "i32": "<i4", "f64": "<f8"}


def unpack(packed: dict[str, str]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(packed["data"]), ARRAYS[packed["type"]])


def columns_of(packed: dict[str, Any]) -> dict[str, list[object]]:
    columns = {}
    for column in packed["columns"]:
        values = unpack(column["values"]).tolist()
        texts = column.get("texts")
        columns[column["name"]] = values if texts is None else [texts[v][0] for v in values]
    return columns


def outlines_of(packed: dict[str, Any]) -> tuple[list[shapely.Polygon], list[shapely.Geometry]]:
    """Polygons from their rings, and the same ground from their triangles."""
    parts = {name: unpack(each) for name, each in packed["outlines"].items()}
    origins, steps = parts["origins"].reshape(-1, 2), parts["vertices"].reshape(-1, 2)
    rings = iter(np.split(steps, np.cumsum(parts["ring_sizes"])[:-1]))
    corners = iter(np.split(parts["corners"], 3 * np.cumsum(parts["triangles"])[:-1]))
    polygons, grounds = [], []
    for origin, count in zip(origins, parts["rings"], strict=True):
        own = [(origin + next(rings)) * packed["quantum"] for _ in range(count)]
        polygons.append(shapely.Polygon(own[0], own[1:]))
        triangles = np.concatenate(own)[next(corners)].reshape(-1, 3, 2)
        grounds.append(shapely.union_all(shapely.polygons(triangles)))
    return polygons, grounds


def town(**columns: object) -> gpd.GeoDataFrame:
    number = {"number": np.arange(len(TOWN))}
    return gpd.GeoDataFrame(number | columns, geometry=TOWN)


def test_outlines_and_triangles_are_those_of_the_polygons():
    layer = town()
    packed = pack_layer(layer, layer.geometry.to_numpy())
    polygons, grounds = outlines_of(packed)
    assert len(polygons) == packed["count"] == len(TOWN)
    for number, polygon, ground in zip(
        columns_of(packed)["number"], polygons, grounds, strict=True
    ):
        true = TOWN[int(number)]
        assert shapely.hausdorff_distance(polygon, true) < STEP
        assert len(polygon.interiors) == len(true.interiors)
        assert shapely.symmetric_difference(ground, polygon).area < 1e-6


def test_coordinates_far_below_zero_and_wide_outlines_fit():
    far = [shapely.box(-30_000, -5, -28_000, 20), shapely.box(3, 3, 4, 4)]
    layer = gpd.GeoDataFrame(geometry=far)
    packed = pack_layer(layer, np.array(far))
    for polygon in outlines_of(packed)[0]:
        nearest = min(far, key=lambda each: shapely.hausdorff_distance(each, polygon))
        assert shapely.hausdorff_distance(polygon, nearest) < packed["quantum"] < 0.04


def test_those_alike_in_size_lie_together_and_the_largest_come_first():
    sides = [3, 40, 3.5, 45, 0.7, 2.1]
    squares = [shapely.box(9 * i, 0, 9 * i + side, 0.5) for i, side in enumerate(sides)]
    layer = gpd.GeoDataFrame({"side": sides}, geometry=squares)
    columns = columns_of(pack_layer(layer, np.array(squares)))
    assert [np.floor(np.log2(side)) for side in columns["side"]] == [5, 5, 1, 1, 1, -1]


def test_columns_of_any_type_come_back():
    values = {
        "text": ["a", "b", None] * 4,
        "number": np.linspace(0, 1, 12),
        "count": pd.array([1, None, 3] * 4, dtype="Int64"),
        "large": [2**60 + i for i in range(12)],
        "yes": [True, False, True] * 4,
        "day": pd.to_datetime(["2024-05-01"] * 12),
        "list": [[1, 2]] * 12,
    }
    layer = town(**values)
    columns = columns_of(pack_layer(layer, layer.geometry.to_numpy()))
    found = pd.DataFrame(columns).sort_values("large", kind="stable")
    assert sorted(found["text"]) == sorted(["a", "b", NOTHING] * 4)
    assert found["number"].tolist() == values["number"].tolist()
    assert found["count"].isna().sum() == 4
    assert found["large"].tolist() == [str(2**60 + i) for i in range(12)]
    assert sorted(found["yes"]) == ["no"] * 4 + ["yes"] * 8
    assert set(found["day"]) == {"2024-05-01 00:00:00"}
    assert set(found["list"]) == {"[1, 2]"}


def test_long_texts_are_cut_and_counted():
    layer = town(text=["x" * 1_000_000] * len(TOWN))
    packed = pack_layer(layer, layer.geometry.to_numpy())
    texts = packed["columns"][1]["texts"]
    assert texts == [["x" * MOST_TEXT, 1_000_000 - MOST_TEXT]]


def test_the_least_sure_come_first():
    sure = np.random.default_rng(0).permutation(len(TOWN)) / 20
    layer = town(confidence=sure)
    packed = pack_layer(layer, layer.geometry.to_numpy())
    columns = columns_of(packed)
    assert [columns["confidence"][i] for i in unpack(packed["order"])] == sorted(sure)


def test_text_in_place_of_confidences_is_an_attribute_like_any_other():
    layer = town(confidence=["high"] * len(TOWN))
    packed = pack_layer(layer, layer.geometry.to_numpy())
    assert packed["confidence"] is None
    assert columns_of(packed)["confidence"] == ["high"] * len(TOWN)


def test_an_empty_layer_is_packed():
    layer = town(confidence=0.5).iloc[:0]
    packed = pack_layer(layer, layer.geometry.to_numpy())
    assert packed["count"] == 0
    assert len(unpack(packed["order"])) == 0


@pytest.mark.parametrize(
    ("values", "name"),
    [
        pytest.param([0, 255], "u8", id="bytes"),
        pytest.param([0, 256], "u16", id="two bytes"),
        pytest.param([70_000], "u32", id="four bytes"),
        pytest.param([-1, 70_000], "i32", id="below zero"),
        pytest.param([0.5], "f64", id="fractions"),
        pytest.param([], "f64", id="none"),
    ],
)
def test_whole_numbers_take_the_smallest_type(values, name):
    packed = pack(np.array(values))
    assert packed["type"] == name
    assert unpack(packed).tolist() == values
