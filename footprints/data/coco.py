"""COCO's annotation files: instances of images in pixels, and how a mask is written in them.

A segmentation is a list of rings, the outer ones of an object's parts, or runs (RLE): lengths of
alternating stretches without and with the object, down one column of the image after the other.
Rings cannot have holes, runs follow whole pixels. What is marked ``iscrowd`` is no single object:
it is neither to be learnt nor background (`footprints.data.labels.LEFT_OUT`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from affine import Affine
from geopandas import GeoDataFrame
from rasterio.features import geometry_mask, shapes

from footprints.data.labels import (
    LEFT_OUT,
    LabelledImage,
    check_areas,
    class_indices,
    label_image,
    read_areas,
)
from footprints.data.pairs import name_some
from footprints.errors import GeoreferenceError, LayerError, RasterError
from footprints.raster.source import Scene, open_scene
from footprints.vector.read import clean_polygons

CATEGORY = "category"
"""Column that a file of annotations has its categories in, in messages."""
_LEAST_RING = 6
"""Numbers of a triangle."""


@dataclass(frozen=True, slots=True)
class CocoScene:
    """Images and the COCO annotations drawn on them."""

    images: Sequence[str | Path]
    """Folders in which the files lie that the annotations name; georeferenced or not."""
    annotations: str | Path
    """JSON file with ``images``, ``annotations`` and ``categories``."""
    aoi: str | Path | None = None
    """Polygon layer of the areas in which labels are complete; None: everywhere."""
    class_map: Mapping[str, str | None] = field(default_factory=dict)
    """Names of categories to class names; what is mapped to None is `LEFT_OUT`."""
    bands: tuple[int, ...] | None = None
    """1-based bands to read, in order; None: as the images have them."""
    nodata: float | None = None
    """Overrides the images' nodata value."""


def read_coco_scene(
    scene: CocoScene, *, classes: Sequence[str] = ("building",)
) -> list[LabelledImage]:
    """Open every image that a file of annotations names, and give it its labels.

    Args:
        scene: Imagery and annotations.
        classes: Class names, in the order of the labels.

    Returns:
        One entry per image, in order; an image without objects stays, without polygons. Images
        that do not say where they lie are in pixel coordinates.

    Raises:
        LayerError: The file is missing or not COCO's, has no object, names an unknown class or an
            image of another size; or the area of interest lies beside all images.
        RasterError: Images are missing or unreadable.

    Warns:
        LabelWarning: Segmentations were repaired, or are missing and were left out.
    """
    name, content = str(scene.annotations), _read_json(scene.annotations)
    images = {image["id"]: image for image in content["images"]}
    frame = _read_objects(content, images, name)
    labels = class_indices(frame, CATEGORY, scene.class_map, classes, name=name)
    labels[frame["crowd"].to_numpy(dtype=bool)] = LEFT_OUT
    rows_of = frame.groupby("image").indices
    polygons, areas, found = frame.geometry.to_numpy(), read_areas(scene.aoi), []
    paths = _find_images([image["file_name"] for image in images.values()], scene)
    for image, path in zip(images.values(), paths, strict=True):
        rows = np.sort(rows_of.get(image["id"], np.array([], dtype=np.int64)))
        with _open_image(path, scene) as raster:
            if (raster.width, raster.height) != (image["width"], image["height"]):
                raise LayerError(
                    f"{path} has {raster.width} x {raster.height} pixels, but {name} says "
                    f"{image['width']} x {image['height']}; give the images that were annotated"
                )
            found.append(label_image(raster, scene, polygons[rows], labels[rows], areas))
    check_areas(found, areas)
    return found


def to_segmentation(
    outline: shapely.Geometry, height: int, width: int
) -> list[Any] | dict[str, Any]:
    """An outline as COCO writes it.

    Args:
        outline: Polygon or MultiPolygon in pixels of an image, within it.
        height: Of the image.
        width: Of the image.

    Returns:
        The outer rings, to a thousandth of a pixel; with holes the runs of the pixels whose centre
        is inside.
    """
    parts = shapely.get_parts(outline)
    if not shapely.get_num_interior_rings(parts).any():
        rings = [shapely.get_coordinates(part.exterior)[:-1] for part in parts]
        return [np.round(ring, 3).ravel().tolist() for ring in rings]
    mask = geometry_mask([outline], (height, width), Affine.identity(), invert=True).ravel(
        order="F"
    )
    changes = np.flatnonzero(np.diff(mask)) + 1
    counts = np.diff([0, *changes, mask.size]).tolist()
    return {"size": [height, width], "counts": [0, *counts] if mask[0] else counts}


def from_segmentation(segmentation: object, height: int, width: int) -> shapely.Geometry | None:
    """The outline that a segmentation stands for.

    Args:
        segmentation: Rings, or runs as numbers or in COCO's compressed text.
        height: Of the image.
        width: Of the image.

    Returns:
        A Polygon or MultiPolygon in pixels of the image, perhaps an invalid one; along the edges of
        pixels where it was runs. None where there is nothing.

    Raises:
        ValueError: It is none, or has runs of an image of another size.
    """
    if not segmentation:
        return None
    if isinstance(segmentation, Mapping):
        return _trace_runs(segmentation, height, width)
    if not isinstance(segmentation, list):
        raise TypeError(f"a list or runs were expected, got {segmentation!r}")
    rings = [np.reshape(ring, (-1, 2)) for ring in segmentation if len(ring) >= _LEAST_RING]
    parts = [shapely.Polygon(ring) for ring in rings]
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)


def _trace_runs(runs: Mapping[str, Any], height: int, width: int) -> shapely.Geometry | None:
    counts = runs["counts"]
    lengths = _decompress(counts) if isinstance(counts, str) else counts
    if list(runs["size"]) != [height, width] or sum(lengths) != height * width:
        raise ValueError(
            f"its runs are of {sum(lengths)} pixels and size {runs['size']}, the image is of "
            f"{height} x {width}"
        )
    flat = np.repeat(np.resize(np.array([0, 1], dtype=np.uint8), len(lengths)), lengths)
    mask = flat.reshape(width, height).T
    columns = np.flatnonzero(mask.any(axis=0))
    if len(columns) == 0:
        return None
    some = np.ascontiguousarray(mask[:, columns[0] : columns[-1] + 1])
    place = Affine.translation(columns[0], 0)
    parts = [shapely.geometry.shape(s) for s, _ in shapes(some, mask=some > 0, transform=place)]
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)


def _decompress(text: str) -> list[int]:
    """Lengths of runs from COCO's text.

    Five bits a character and a sixth that says whether more follow; from the fourth on, numbers
    are differences to the last but one.
    """
    lengths: list[int] = []
    value = shift = 0
    for character in text.encode():
        bits = character - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value = shift = 0
    return lengths


def _read_json(path: str | Path) -> dict[str, list[dict[str, Any]]]:
    try:
        content: dict[str, list[dict[str, Any]]] = json.loads(Path(path).read_bytes())
    except FileNotFoundError as err:
        raise LayerError(f"annotations not found: {path}") from err
    except (OSError, ValueError) as err:
        raise LayerError(f"cannot read {path} as COCO annotations: {err}") from err
    for key in ("images", "annotations", "categories"):
        if not (isinstance(content, dict) and isinstance(content.get(key), list)):
            raise LayerError(
                f"{path} is no COCO file of instances: it has no list {key!r}; such files have "
                f"images, annotations and categories"
            )
    if not content["annotations"]:
        raise LayerError(f"{path} holds no annotation; give a file with at least one")
    return content


def _read_objects(
    content: Mapping[str, Sequence[Mapping[str, Any]]],
    images: Mapping[Any, Mapping[str, Any]],
    name: str,
) -> GeoDataFrame:
    """The objects as a layer in pixels, each in its image: columns image, category and crowd."""
    category_of = {category["id"]: category["name"] for category in content["categories"]}
    rows, outlines = [], []
    for number, each in enumerate(content["annotations"]):
        which = f"annotation {each.get('id', number)} of {name}"
        if each.get("image_id") not in images:
            raise LayerError(f"{which} is of image {each.get('image_id')}, which is not there")
        if each.get("category_id") not in category_of:
            raise LayerError(
                f"{which} is of category {each.get('category_id')}, which is not there"
            )
        image = images[each["image_id"]]
        try:
            outlines.append(
                from_segmentation(each.get("segmentation"), image["height"], image["width"])
            )
        except (ValueError, TypeError, KeyError) as err:
            raise LayerError(f"{which} has no segmentation that can be read: {err}") from err
        rows.append((each["image_id"], category_of[each["category_id"]], bool(each.get("iscrowd"))))
    columns = dict(zip(("image", CATEGORY, "crowd"), zip(*rows, strict=True), strict=True))
    frame = GeoDataFrame(columns, geometry=outlines)
    return clean_polygons(frame, name=name, allow_empty=False, explode=False)


def _find_images(names: Iterable[str], scene: CocoScene) -> list[Path]:
    """Where the files of these names lie: as named, or without the folders of the name."""
    found, missing = [], []
    for name in names:
        places = [Path(folder, n) for folder in scene.images for n in (name, Path(name).name)]
        place = next((place for place in places if place.is_file()), None)
        if place is None:
            missing.append(name)
        else:
            found.append(place)
    if missing:
        raise RasterError(
            f"{len(missing)} of {len(missing) + len(found)} images of {scene.annotations} are not "
            f"in {', '.join(map(str, scene.images))}: {name_some(missing)}; "
            f"name the folder they lie in"
        )
    return found


def _open_image(path: Path, scene: CocoScene) -> Scene:
    """An image with its georeference, or in pixel coordinates."""
    try:
        return open_scene(path, bands=scene.bands, nodata=scene.nodata)
    except GeoreferenceError:
        return open_scene(path, bands=scene.bands, nodata=scene.nodata, pixels=True)
