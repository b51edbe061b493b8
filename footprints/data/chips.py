"""Training chips as files: what other programs learn from, and `train` as well.

A folder holds ``images/`` (GeoTIFFs; a mask says where there is data), ``labels/`` (a GeoJSON of
the same name for each: the buildings that meet it, whole), ``annotations.json`` (COCO: what is
visible of each building, clipped at the chip), ``chips.gpkg`` (the outline of every chip) and,
where some validate, ``validation.gpkg`` (the outlines of those).

Frames: raster pixels of the scene, chip pixels. A grid pixel is a chip pixel counted from the
scene's corner.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import rasterio
import shapely
from affine import Affine
from geopandas import GeoDataFrame
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from shapely import GeometryType

from footprints.chip import Window
from footprints.config import load_class_map
from footprints.data.coco import to_segmentation
from footprints.data.labels import (
    LEFT_OUT,
    LabelledImage,
    TrainingScene,
    read_training_scene,
    to_crs_units,
    window_box,
)
from footprints.data.pairs import label_files
from footprints.data.split import Split, split_by_place
from footprints.data.targets import (
    MIN_LABELLED_SHARE,
    MIN_VISIBLE_SHARE,
    Cut,
    share_inside,
    tile_window,
    visible_parts,
)
from footprints.errors import ConfigError, LayerError, OutputError
from footprints.files import making_beside, put_folder
from footprints.progress import is_hidden, tqdm
from footprints.raster.source import Scene
from footprints.vector.affine import apply_affine
from footprints.vector.classes import read_values
from footprints.vector.read import read_features
from footprints.vector.write import write_layer

ANNOTATIONS, INDEX, VALIDATION = "annotations.json", "chips.gpkg", "validation.gpkg"
IMAGES, LABELS = "images", "labels"
_OURS = frozenset({ANNOTATIONS, INDEX, VALIDATION, IMAGES, LABELS})
TRAIN, VALIDATE = "train", "validation"
"""Values of the column ``split``."""
_BLOCK_CHIPS = 4
"""Validation blocks are this many chips wide and high, where the scene is three of them: every edge
of a block costs training chips a strip."""
_LEAST_SIDE = 0.5
"""A chip that ground kept for validation narrows further than to this share of its side is left
out."""


def write_chips(
    images: str | Path | Sequence[str | Path],
    labels: str | Path,
    output: str | Path,
    *,
    gsd_m: float | None = None,
    chip_size: int = 512,
    overlap: int = 0,
    bands: Sequence[int] | None = None,
    nodata: float | None = None,
    aoi: str | Path | None = None,
    class_column: str | None = None,
    class_map: Mapping[Any, str | None] | str | Path | None = None,
    validation_share: float = 0.1,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = False,
) -> GeoDataFrame:
    """Cut scenes and their labels into a folder of training chips.

    Args:
        images: A raster, a folder of rasters, a pattern such as ``images/*.tif``, or a list.
        labels: Polygon layer in any CRS, or a folder with a GeoJSON for each image.
        output: Folder to write; it appears when it is complete.
        gsd_m: Metres per chip pixel; None: the scene's own pixels.
        chip_size: Side of a chip in pixels; smaller where the scene is, and beside ground that
            validates.
        overlap: Pixels that neighbouring training chips share; those that validate share none but
            where the last row and column move inwards.
        bands: 1-based bands, in order; None: as the raster has them.
        nodata: Overrides the raster's nodata value.
        aoi: Polygon layer of the areas in which labels are complete: chips beside it are left out.
        class_column: Column with the class; None: all are ``building``.
        class_map: Values of that column to classes, or to None, which makes crowds of them; a
            mapping or a YAML file of one. Values that are not in it are classes.
        validation_share: Share of the buildings on ground that validates, chosen by place; chips
            that train keep 8 px away from it.
        seed: Chooses that ground.
        overwrite: Replace a folder of chips.
        progress: Show a bar.

    Returns:
        A row for each chip, as in ``chips.gpkg``: ``image`` (file name), ``split``, ``labels``
        (number of buildings that count), ``nodata_share`` (0 to 1) and the outline in the CRS of
        the first scene.

    Raises:
        ConfigError: The class map is none, or there is no class column whose values it maps.
        OutputError: The folder exists or cannot be written; what existed is then as it was.
        LayerError: As `read_training_scene`, or no chip has data and labels.
        RasterError: A scene is missing, unreadable or without georeference.
        ChipSizeError: Chip size and overlap do not fit together.
        TrainingError: The scenes are too small for the validation share.
    """
    folder = Path(output)
    _check_folder(folder, overwrite=overwrite)
    if class_map is not None and class_column is None:
        raise ConfigError("--class-map needs the column whose values it maps: --class-field")
    known = load_class_map({} if class_map is None else class_map)
    scene = TrainingScene(
        images=images,
        labels=labels,
        aoi=aoi,
        class_column=class_column,
        class_map=known,
        bands=None if bands is None else tuple(bands),
        nodata=nodata,
    )
    classes = _class_names(labels, class_column, known)
    scenes = read_training_scene(scene, classes=classes)
    split = split_by_place(
        [scenes],
        chip_size=_block_chips(scenes, chip_size, gsd_m) * chip_size,
        gsd_m=gsd_m,
        validation_share=validation_share,
        seed=seed,
    )
    cuts = _lay_out(split, chip_size, gsd_m, overlap)
    try:
        with making_beside(folder) as unfinished:
            writer = _Writer(unfinished, classes)
            shown = tqdm(cuts, unit="chip", disable=is_hidden(progress=progress))
            for image, some in groupby(shown, key=lambda pair: pair[0].image):
                with image.open() as raster:
                    for cut, where in some:
                        writer.write(cut, where, raster)
            index = writer.finish(str(labels))
            put_folder(unfinished, folder)
    except (OSError, RasterioError) as err:
        raise OutputError(f"cannot write chips to {folder}: {err}; is the disk full?") from err
    return index


def _check_folder(folder: Path, *, overwrite: bool) -> None:
    if not folder.parent.is_dir():
        raise OutputError(f"folder of the chips does not exist: {folder.parent}; create it first")
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"chips go to a folder, but {folder} is a file; give another name")
    foreign = {path.name for path in folder.iterdir()} - _OURS if folder.exists() else set()
    if foreign:
        raise OutputError(
            f"{folder} holds what is no part of a folder of chips: {min(foreign)}; give another "
            f"name with --output"
        )
    if folder.exists() and not overwrite:
        raise OutputError(f"chips exist: {folder}; replace them with --overwrite")
    if not os.access(folder.parent, os.W_OK | os.X_OK):
        raise OutputError(f"folder of the chips is not writable: {folder.parent}")


def _class_names(
    labels: str | Path, column: str | None, class_map: Mapping[str, str | None]
) -> tuple[str, ...]:
    """What the values of a column lead to, in order."""
    if column is None:
        return ("building",)
    files = label_files(labels) if Path(labels).is_dir() else [Path(labels)]
    layers = [(read_features(file), str(file)) for file in files]
    found = {
        v for layer, name in layers if len(layer) for v in read_values(layer, column, name=name)
    }
    names = {class_map.get(value, value) for value in found}
    # What is empty or mapped to None is of no class.
    return tuple(sorted(name for name in names if name))


def _block_chips(images: Sequence[LabelledImage], chip_size: int, gsd_m: float | None) -> int:
    """How many chips wide and high a block that validates is."""
    sides = [
        min(image.width / image.scale(gsd_m)[0], image.height / image.scale(gsd_m)[1])
        for image in images
    ]
    return min(max(int(max(sides) / (3 * chip_size)), 1), _BLOCK_CHIPS)


def _lay_out(
    split: Split, chip_size: int, gsd_m: float | None, overlap: int
) -> list[tuple[Cut, str]]:
    """The chips of all images with the split that they belong to, image by image."""
    found = []
    for images in split.training:
        for image, kept in ((part.image, part.kept) for part in images):
            whole = Window(0, 0, image.width, image.height)
            for cut in tile_window(image, whole, chip_size, gsd_m, overlap):
                free = cut if kept is None else _beside(cut, kept, chip_size * _LEAST_SIDE)
                if free is not None:
                    found.append((free, TRAIN))
    found += [
        (cut, VALIDATE)
        for block in split.validation
        for cut in tile_window(*block, chip_size, gsd_m)
    ]
    return [(cut, where) for cut, where in found if cut.image.is_labelled(cut.window)]


def _beside(cut: Cut, kept: shapely.Geometry, least: float) -> Cut | None:
    """The largest part of a cut beside kept ground in raster pixels; None below a least side."""
    while kept.intersects(window_box(cut.window)):
        inside = shapely.intersection(kept, window_box(cut.window))
        across, down = cut.window.width / cut.width, cut.window.height / cut.height
        x_min, y_min, x_max, y_max = shapely.bounds(shapely.get_parts(inside)[0])
        # A pixel more, because an edge in common counts as meeting.
        left = int((x_min - cut.window.x) / across) - 1
        upper = int((y_min - cut.window.y) / down) - 1
        right = int(np.ceil((x_max - cut.window.x) / across)) + 1
        lower = int(np.ceil((y_max - cut.window.y) / down)) + 1
        x, y, width, height = max(
            (0, 0, left, cut.height),
            (right, 0, cut.width - right, cut.height),
            (0, 0, cut.width, upper),
            (0, lower, cut.width, cut.height - lower),
            key=lambda part: part[2] * part[3],
        )
        if min(width, height) < min(least, cut.width, cut.height):
            return None
        window = Window(
            cut.window.x + x * across, cut.window.y + y * down, width * across, height * down
        )
        cut = cut._replace(window=window, width=width, height=height)
    return cut


class _Writer:
    """Writes chips one after the other, and in the end what says of them all."""

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        self._folder = folder
        self._classes = classes
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._rows: list[dict[str, Any]] = []
        self._outlines: list[gpd.GeoSeries] = []
        for name in (IMAGES, LABELS):
            (folder / name).mkdir(parents=True)

    def write(self, cut: Cut, where: str, raster: Scene) -> None:
        """Write a chip with its labels, unless it has no data at all."""
        pixels, valid = raster.read(cut.window, (cut.height, cut.width))
        if not valid.any():
            return
        number = len(self._images) + 1
        name = f"{Path(cut.image.path).stem}_{number:05d}"
        _write_geotiff(self._folder / IMAGES / f"{name}.tif", pixels, valid, cut)
        write_layer(self._meeting(cut), self._folder / LABELS / f"{name}.geojson")
        annotations = self._annotate(cut, valid, number)
        self._annotations += annotations
        self._images.append(
            {"id": number, "file_name": f"{name}.tif", "width": cut.width, "height": cut.height}
        )
        row = {
            "image": f"{name}.tif",
            "split": where,
            "labels": sum(not each["iscrowd"] for each in annotations),
            "nodata_share": round(1 - float(valid.mean()), 4),
        }
        self._rows.append(row)
        outline = to_crs_units(cut.window, cut.image.transform)
        self._outlines.append(gpd.GeoSeries([outline], crs=cut.image.crs))

    def finish(self, labels: str) -> GeoDataFrame:
        """Write what says of all chips, and return the index."""
        if not sum(row["labels"] for row in self._rows):
            raise LayerError(
                f"none of the {len(self._rows)} chips with data shows a building of {labels}; "
                f"check imagery, labels and area of interest"
            )
        content = {
            "info": {"description": "building footprints"},
            "images": self._images,
            "annotations": self._annotations,
            "categories": [
                {"id": number, "name": name, "supercategory": "building"}
                for number, name in enumerate(self._classes, 1)
            ],
        }
        (self._folder / ANNOTATIONS).write_text(json.dumps(content))
        crs = self._outlines[0].crs
        outlines = [shape for series in self._outlines for shape in series.to_crs(crs)]
        index = GeoDataFrame(self._rows, geometry=outlines, crs=crs)
        write_layer(index, self._folder / INDEX)
        if (index["split"] == VALIDATE).any():
            write_layer(index[index["split"] == VALIDATE], self._folder / VALIDATION)
        return index

    def _meeting(self, cut: Cut) -> GeoDataFrame:
        """The buildings that meet a cut, whole, in CRS units."""
        image = cut.image
        rows = np.sort(image.tree.query(window_box(cut.window), predicate="intersects"))
        names = np.array([*self._classes, None], dtype=object)[image.labels[rows]]
        whole = apply_affine(image.polygons[rows], image.transform)
        return GeoDataFrame({"class": names}, geometry=list(whole), crs=image.crs)

    def _annotate(self, cut: Cut, valid: NDArray[np.bool_], image: int) -> list[dict[str, Any]]:
        """COCO's annotations of a cut; what is no target of `make_sample` is a crowd."""
        seen = visible_parts(cut)
        boxes = shapely.bounds(seen.parts).reshape(-1, 4)
        crowd = (seen.labels == LEFT_OUT) | (seen.shares < MIN_VISIBLE_SHARE)
        crowd |= share_inside(valid, boxes) < MIN_LABELLED_SHARE
        annotations: list[dict[str, Any]] = []
        for part, label, is_crowd in zip(seen.parts, seen.labels, crowd, strict=True):
            pieces = shapely.get_parts(part)
            # Clipping leaves lines where a wall runs along the chip's edge.
            pieces = pieces[shapely.get_type_id(pieces) == GeometryType.POLYGON]
            outline = shapely.MultiPolygon(list(pieces))
            x_min, y_min, x_max, y_max = np.round(outline.bounds, 3).tolist()
            annotations.append(
                {
                    "id": len(self._annotations) + len(annotations) + 1,
                    "image_id": image,
                    # A label without a class needs some category in a file of COCO's.
                    "category_id": max(int(label), 0) + 1,
                    "iscrowd": int(is_crowd),
                    "bbox": [x_min, y_min, x_max - x_min, y_max - y_min],
                    "area": round(outline.area, 3),
                    "segmentation": to_segmentation(outline, cut.height, cut.width),
                }
            )
        return annotations


def _write_geotiff(
    path: Path, pixels: NDArray[np.generic], valid: NDArray[np.bool_], cut: Cut
) -> None:
    """Write (bands, height, width) pixels, with a mask instead of a value for no data."""
    window, image = cut.window, cut.image
    bands, height, width = pixels.shape
    transform = (
        image.transform
        @ Affine.translation(window.x, window.y)
        @ Affine.scale(window.width / width, window.height / height)
    )
    profile = {
        "driver": "GTiff",
        "width": width,
        "height": height,
        "count": bands,
        "dtype": pixels.dtype,
        "crs": image.crs,
        "transform": transform,
        "compress": "deflate",
        "predictor": 2 if np.issubdtype(pixels.dtype, np.integer) else 3,
        "photometric": "rgb" if bands == 3 else "minisblack",
        "alpha": "no",
    }
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "w", **profile) as file:
        file.write(pixels)
        file.write_mask(valid)
