"""The model card and the STAC item: what they say, and that others understand it."""

import dataclasses
import json
from pathlib import Path

import pystac
import pytest
import shapely
from jsonschema import Draft7Validator
from pystac.extensions.mlm import MLMExtension
from pystac.validation.local_validator import get_local_schema_cache
from referencing import Registry, Resource
from tiny_network import tiny_config, tiny_network

from footprints.calibration import Calibration
from footprints.card import BEGIN, END, facts, stac_item, write_card
from footprints.chip import InputSpec, Scaling
from footprints.errors import WeightsError
from footprints.model.checkpoint import WeightsInfo, count_parameters, read_info, save_weights
from footprints.model.detector import DEFAULT_WEIGHTS
from footprints.model.facts import places

SQUARE = shapely.geometry.mapping(shapely.MultiPolygon([shapely.box(85.5, 27.6, 85.6, 27.7)]))
INFO = WeightsInfo(
    name="tiny",
    model=tiny_config(classes=("building", "garden shed")),
    input_spec=InputSpec(
        bands=3,
        gsd_m=0.27,
        scaling=Scaling((127.0, 120.5, 119.0), (128.0, 60.0, 61.25)),
        value_range=((1, 200), (2, 201), (3, 202)),
    ),
    confidence=0.5,
    calibration=Calibration(1.2, 0.8, -0.5),
    training={
        "data": [
            {"images": ["a.tif"], "labels": "a.gpkg", "attribution": "Somebody,\n CC BY"},
            {"images": ["b.tif"], "labels": "b.gpkg", "attribution": "Somebody, CC BY"},
        ],
        "start_from": {
            "name": "before",
            "data": [{"images": ["c.tif"], "labels": "c.gpkg", "attribution": "Others, ODbL"}],
        },
        "buildings": {"training": 1200, "validation": 80},
        "areas": {"training": SQUARE, "validation": None},
        "validation": {"val_f1": 0.71, "val_calibrated_error": 0.03},
    },
)


@pytest.fixture
def weights(tmp_path) -> Path:
    path = tmp_path / "tiny.safetensors"
    save_weights(path, tiny_network(INFO.model), INFO)
    return path


def test_the_facts_are_those_of_the_weights(weights):
    said = dict(facts(weights))
    assert said["classes"] == "building, garden shed"
    assert said["bands"] == "3, uint8"
    assert said["scaling"] == "(value - 127, 120.5, 119) / 128, 60, 61.25"
    assert said["resolution"] == "0.27 m per pixel"
    assert said["trained on"] == (
        "1,200 buildings, within 85.5000, 27.6000 to 85.6000, 27.7000 (WGS 84)"
    )
    assert said["validated on"] == "80 buildings"
    assert said["started from"] == "before"
    assert said["validation: F1"] == "0.710"
    assert float(said["default confidence"]) == pytest.approx(
        float(INFO.calibration(0.5)), abs=5e-4
    )
    data = [value for name, value in facts(weights) if name == "data"]
    assert data[0] == "a.tif with a.gpkg. Somebody, CC BY"
    assert data[2] == "c.tif with c.gpkg. Others, ODbL"


def test_places_far_from_each_other_are_named_one_by_one():
    def square(west: float, south: float) -> list:
        corners = [(0, 0), (0.1, 0), (0.1, 0.1), (0, 0.1), (0, 0)]
        return [[[west + x, south + y] for x, y in corners]]

    # The third is near to what the first two make together.
    area = {"coordinates": [square(6, 46), square(6.5, 46.5), square(6.9, 46.1), square(85, 27)]}
    assert [[round(x, 3) for x in place] for place in places(area)] == [
        [6, 46, 7, 46.6],
        [85, 27, 85.1, 27.1],
    ]


def test_a_card_keeps_what_was_written_by_hand(weights):
    card, _ = write_card(weights)
    text = card.read_text()
    assert text.startswith(f"# tiny\n\n{BEGIN}\n")
    card.write_text(text.replace("# tiny", "# Tiny\n\nMade in a test.") + "\nIts limits.\n")
    save_weights(
        weights, tiny_network(INFO.model), dataclasses.replace(INFO, training={"validation": {}})
    )
    write_card(weights)
    after = card.read_text()
    assert after.startswith(f"# Tiny\n\nMade in a test.\n\n{BEGIN}\n")
    assert after.endswith(f"{END}\n\nIts limits.\n")
    assert "1,200 buildings" in text
    assert "1,200 buildings" not in after


def test_facts_are_added_to_a_card_without_any(weights):
    weights.with_suffix(".md").write_text("# Ours\n\nBy hand.\n")
    card, _ = write_card(weights)
    assert card.read_text().startswith(f"# Ours\n\nBy hand.\n\n{BEGIN}\n")
    once = card.read_bytes()
    write_card(weights)
    assert card.read_bytes() == once


def test_the_item_is_valid_and_pystac_reads_its_extension(weights):
    _, path = write_card(weights)
    content = json.loads(path.read_text())
    check_item(content)
    item = pystac.Item.from_dict(content)
    model = MLMExtension.ext(item)
    assert (model.mlm_name, model.architecture) == ("tiny", "Mask R-CNN")
    assert model.tasks == ["instance-segmentation"]
    assert model.total_parameters == count_parameters(weights)
    assert model.input[0].bands == ["band-1", "band-2", "band-3"]
    scalings = content["properties"]["mlm:input"][0]["value_scaling"]
    assert [(each["mean"], each["stddev"]) for each in scalings] == [
        (127.0, 128.0),
        (120.5, 60.0),
        (119.0, 61.25),
    ]
    labels = next(output for output in model.output if output.name == "labels")
    assert [c.name for c in labels.classes] == ["building", "garden_shed"]
    assert item.bbox == [85.5, 27.6, 85.6, 27.7]
    assert item.properties["attribution"] == "Somebody, CC BY Others, ODbL"


def check_item(content: dict) -> None:
    """By the schemas of STAC, and by what the extension requires: its own is not on disk."""
    schemas = get_local_schema_cache()
    registry = Registry().with_resources(
        [(uri, Resource.from_contents(schema)) for uri, schema in schemas.items()]
    )
    (item,) = (schema for uri, schema in schemas.items() if uri.endswith("item.json"))
    Draft7Validator(item, registry=registry).validate(content)
    required = ("name", "architecture", "tasks", "input", "output")
    assert {f"mlm:{name}" for name in required} <= content["properties"].keys()
    (weights,) = (a for a in content["assets"].values() if "mlm:model" in a["roles"])
    assert weights["mlm:artifact_type"]
    assert [band["name"] for band in weights["bands"]] == content["properties"]["mlm:input"][0][
        "bands"
    ]


def test_weights_that_know_no_place_have_an_item_without_one(tmp_path):
    path = tmp_path / "bare.safetensors"
    save_weights(path, tiny_network(INFO.model), dataclasses.replace(INFO, training={}))
    item = stac_item(path)
    check_item(item)
    assert item["geometry"] is None
    assert "bbox" not in item
    assert item["properties"]["mlm:pretrained_source"] is None


def test_parameters_are_counted_without_loading_them(weights):
    network = tiny_network(INFO.model)
    expected = sum(t.numel() for t in network.state_dict().values() if t.is_floating_point())
    assert count_parameters(weights) == expected


def test_a_raster_has_no_card(tmp_path):
    (tmp_path / "scene.tif").touch()
    with pytest.raises(WeightsError, match=r"must be a \.safetensors file"):
        write_card(tmp_path / "scene.tif")
    assert [path.name for path in tmp_path.iterdir()] == ["scene.tif"]


def test_card_and_item_that_ship_are_those_of_the_weights_that_ship():
    card = DEFAULT_WEIGHTS.with_suffix(".md").read_text()
    for name, value in facts(DEFAULT_WEIGHTS):
        assert f"| {name} | {value} |\n" in card
    item = json.loads(DEFAULT_WEIGHTS.with_suffix(".json").read_text())
    assert item == json.loads(json.dumps(stac_item(DEFAULT_WEIGHTS)))
    check_item(item)
    assert read_info(DEFAULT_WEIGHTS).calibration is not None
