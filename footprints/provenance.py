"""What weights remember of their training: data and whose it is, ground, and settings."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np
import shapely
from geopandas import GeoSeries
from pyproj import CRS

from footprints.chip import Window
from footprints.config import RunConfig
from footprints.data.labels import LEFT_OUT, LabelledImage, window_box
from footprints.data.split import Split
from footprints.model.checkpoint import read_info
from footprints.preparation import start_weights
from footprints.vector.affine import apply_affine

Ground = list[tuple[LabelledImage, shapely.Geometry]]
"""Images, and parts of them in raster pixels."""

_WGS84 = CRS("EPSG:4326")
_DIGITS = 1e-6
"""Degrees to which ground is told: a tenth of a metre."""


def describe_training(config: RunConfig, split: Split) -> dict[str, Any]:
    """What the weights of a run say of it, as values that JSON holds.

    Args:
        config: Of the run.
        split: The ground that trains and that validates.
    """
    trains = [
        (part.image, _free_ground(part.image, part.kept))
        for images in split.training
        for part in images
    ]
    validates = [(block.image, window_box(block.window)) for block in split.validation]
    before: dict[str, Any] = {}
    if config.train.start_from is not None:
        info = read_info(start_weights(config.train.start_from, config.data))
        before = {"name": info.name, "data": info.training.get("data", [])}
    return {
        "data": [
            {"images": list(s.images), "labels": s.labels or s.coco, "attribution": s.attribution}
            for s in config.data.scenes
        ],
        "seed": config.train.seed,
        "epochs": config.train.epochs,
        "chips_per_epoch": config.data.chips_per_epoch,
        "version": version("building-footprints"),
        "start_from": before,
        "pretrained_trunk": config.model.backbone.pretrained is not False,
        "buildings": {
            "training": _count_buildings(trains),
            "validation": _count_buildings(validates),
        },
        "areas": {"training": _on_earth(trains), "validation": _on_earth(validates)},
    }


def _free_ground(image: LabelledImage, kept: shapely.Geometry | None) -> shapely.Geometry:
    """Where an image trains, in raster pixels."""
    ground = window_box(Window(0, 0, image.width, image.height))
    if image.aoi is not None:
        ground = shapely.intersection(ground, image.aoi)
    return ground if kept is None else shapely.difference(ground, kept)


def _count_buildings(ground: Ground) -> int:
    """How many labels have most of themselves there, by a point within each."""
    count = 0
    for image, area in ground:
        buildings = image.polygons[image.labels != LEFT_OUT]
        inside = shapely.intersects(area, shapely.point_on_surface(buildings))
        count += int(inside.sum())
    return count


def _on_earth(ground: Ground) -> dict[str, Any] | None:
    """GeoJSON MultiPolygon in WGS 84; None where no image says where it lies."""
    placed = [
        GeoSeries(apply_affine(np.array([area]), image.transform), crs=image.crs).to_crs(_WGS84)[0]
        for image, area in ground
        if image.crs is not None
    ]
    united = shapely.set_precision(shapely.union_all(placed), _DIGITS)
    polygons = [p for p in shapely.get_parts(united) if isinstance(p, shapely.Polygon)]
    if not polygons:
        return None
    outline = shapely.normalize(shapely.MultiPolygon(polygons))
    rings: dict[str, Any] = shapely.geometry.mapping(shapely.orient_polygons(outline))
    return rings
