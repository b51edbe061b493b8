"""What weights are, for people and for catalogues: a model card and a STAC item beside them.

Both follow from the weights file alone. In a card, the facts stand between two marks; what somebody
wrote around them stays when they are written again. The item has the Machine Learning Model
extension (MLM), version 1.4.0, of STAC 1.1.0.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from footprints.errors import OutputError
from footprints.files import write_whole
from footprints.model.checkpoint import WeightsInfo, count_parameters, read_info
from footprints.model.facts import bounds, describe

BEGIN, END = (
    "<!-- facts: footprints info --card writes what follows -->",
    "<!-- end of the facts -->",
)
"""The lines that facts stand between."""
_STAC = "1.1.0"
_EXTENSIONS = [
    "https://stac-extensions.github.io/mlm/v1.4.0/schema.json",
    "https://stac-extensions.github.io/classification/v2.0.0/schema.json",
    "https://stac-extensions.github.io/file/v2.1.0/schema.json",
]
_ALWAYS = ("1900-01-01T00:00:00Z", "9999-12-31T23:59:59Z")
"""Weights are of no date; the extension's best practice for that."""


def write_card(weights: str | Path) -> tuple[Path, Path]:
    """Write the model card (``.md``) and the STAC item (``.json``) of weights beside them.

    A card that is there keeps all but its facts; facts are added to one that has none.

    Raises:
        WeightsError: The weights are missing or not ours.
        OutputError: A file cannot be written.
    """
    weights = Path(weights)
    info = read_info(weights)
    card, item = weights.with_suffix(".md"), weights.with_suffix(".json")
    try:
        before = card.read_text(encoding="utf-8") if card.exists() else f"# {info.name}\n\n"
    except (OSError, UnicodeDecodeError) as err:
        raise OutputError(f"cannot read the model card {card}: {err}") from err
    write_whole(card, _with_facts(before, facts(weights)).encode(), "model card")
    content = json.dumps(stac_item(weights), allow_nan=False) + "\n"
    write_whole(item, content.encode(), "STAC item")
    return card, item


def _with_facts(card: str, lines: Sequence[tuple[str, str]]) -> str:
    rows = [f"| {name} | {value.replace('|', '&#124;')} |" for name, value in lines]
    table = "\n".join([BEGIN, "", "| | |", "|---|---|", *rows, "", END])
    story, begin, rest = card.partition(BEGIN)
    if not begin:
        return f"{card.rstrip()}\n\n{table}\n"
    return f"{story}{table}{rest.partition(END)[2]}"


def facts(weights: str | Path) -> list[tuple[str, str]]:
    """What a weights file says of itself: rows of name and value for reading.

    Raises:
        WeightsError: The file is missing or not ours.
    """
    info = read_info(weights)
    size = f"{info.name}, {Path(weights).stat().st_size / 1e6:.1f} MB"
    return [("weights", size), *describe(info, count_parameters(weights))]


def stac_item(weights: str | Path) -> dict[str, Any]:
    """The STAC item of a weights file.

    Raises:
        WeightsError: The file is missing or not ours.
    """
    weights = Path(weights)
    info = read_info(weights)
    area = info.training.get("areas", {}).get("training")
    place = {} if area is None else {"bbox": bounds(area)}
    return {
        "type": "Feature",
        "stac_version": _STAC,
        "stac_extensions": _EXTENSIONS,
        "id": info.name,
        "geometry": area,
        **place,
        "properties": _properties(info, count_parameters(weights)),
        "assets": _assets(info, weights),
        "links": [],
    }


def _properties(info: WeightsInfo, parameters: int) -> dict[str, Any]:
    training, spec = info.training, info.input_spec
    start, end = _ALWAYS
    pretrained = bool(training.get("start_from") or training.get("pretrained_trunk"))
    properties: dict[str, Any] = {
        "title": info.name,
        "description": f"Instance segmentation of {', '.join(info.model.classes)}.",
        "datetime": None,
        "start_datetime": start,
        "end_datetime": end,
        "mlm:name": info.name,
        "mlm:architecture": "Mask R-CNN",
        "mlm:tasks": ["instance-segmentation"],
        "mlm:framework": "PyTorch",
        "mlm:total_parameters": parameters,
        "mlm:pretrained": pretrained,
        "mlm:input": [_model_input(info)],
        "mlm:output": _model_outputs(info),
        "mlm:hyperparameters": {
            "model": info.model.model_dump(mode="json"),
            "confidence": info.confidence,
            "calibration": info.calibration and dataclasses.asdict(info.calibration),
            "training": {k: v for k, v in training.items() if k not in ("areas", "validation")},
        },
        "footprints:validation": training.get("validation", {}),
        "footprints:validation_area": training.get("areas", {}).get("validation"),
    }
    if not pretrained:
        properties["mlm:pretrained_source"] = None
    if spec.gsd_m is not None:
        properties["gsd"] = spec.gsd_m
    if owed := _credits(training):
        properties["attribution"] = " ".join(owed)
    return properties


def _credits(training: dict[str, Any]) -> list[str]:
    """Attributions of all data, each once, in order."""
    before = training.get("start_from") or {}
    entries = [*training.get("data", []), *before.get("data", [])]
    said = [" ".join(entry["attribution"].split()) for entry in entries]
    return [line for line in dict.fromkeys(said) if line]


def _band_names(info: WeightsInfo) -> list[str]:
    """Weights know how many bands there are and not what they show."""
    return [f"band-{number}" for number in range(1, info.input_spec.bands + 1)]


def _model_input(info: WeightsInfo) -> dict[str, Any]:
    scaling = info.input_spec.scaling
    return {
        "name": "chips",
        "bands": _band_names(info),
        "input": {
            "shape": [-1, info.input_spec.bands, -1, -1],
            "dim_order": ["batch", "channel", "height", "width"],
            "data_type": "float32",
        },
        "value_scaling": [
            {"type": "z-score", "mean": mean, "stddev": std}
            for mean, std in zip(scaling.mean, scaling.std, strict=True)
        ],
        "resize_type": None,
        "pre_processing_function": {
            "format": "python",
            "expression": "footprints.model.detector:scale_pixels",
        },
    }


def _model_outputs(info: WeightsInfo) -> list[dict[str, Any]]:
    classes = [
        {"value": number, "name": "".join(c if c.isalnum() else "_" for c in name), "title": name}
        for number, name in enumerate(info.model.classes)
    ]
    shapes = {
        "boxes": ([-1, 4], ["instance", "corner"], "float32"),
        "scores": ([-1], ["instance"], "float32"),
        "labels": ([-1], ["instance"], "int64"),
        "masks": ([-1, -1, -1], ["instance", "height", "width"], "int8"),
    }
    return [
        {
            "name": name,
            "tasks": ["instance-segmentation"],
            "result": {"shape": shape, "dim_order": order, "data_type": kind},
            "classification:classes": classes if name == "labels" else [],
            "post_processing_function": None,
        }
        for name, (shape, order, kind) in shapes.items()
        if name != "masks" or info.model.mask_head is not None
    ]


def _assets(info: WeightsInfo, weights: Path) -> dict[str, Any]:
    spec = info.input_spec
    ranges = spec.value_range or [None] * spec.bands
    bands = [
        {"name": name, "data_type": spec.dtype}
        | ({} if limits is None else {"statistics": {"minimum": limits[0], "maximum": limits[1]}})
        for name, limits in zip(_band_names(info), ranges, strict=True)
    ]
    return {
        "weights": {
            "href": f"./{weights.name}",
            "type": "application/octet-stream",
            "title": "Weights in safetensors, with all that prediction needs in their metadata",
            "roles": ["mlm:model", "mlm:weights"],
            "mlm:artifact_type": "safetensors",
            "file:size": weights.stat().st_size,
            "bands": bands,
        },
        "card": {
            "href": f"./{weights.with_suffix('.md').name}",
            "type": "text/markdown",
            "title": "Model card",
            "roles": ["metadata"],
        },
    }
