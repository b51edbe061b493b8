"""Folders with a GeoJSON of labels for each image, as SpaceNet hands them out.

Names agree in the image's id and differ in what says which of the two a file is:
``RGB-PanSharpen_AOI_2_Vegas_img1.tif`` and ``buildings_AOI_2_Vegas_img1.geojson``. So the parts
between underscores that all files of one folder have and none of the other are left out, and what
remains is the id.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from geopandas import GeoDataFrame

from footprints.errors import LabelWarning, LayerError
from footprints.vector.read import GEOJSON_SUFFIXES, clean_polygons, read_features

IMAGE = "footprints:image"
"""Column with the file name of the image that a polygon belongs to."""
_NAMED = 5
"""Files that a message names."""


def read_pairs(folder: str | Path, images: Sequence[str]) -> GeoDataFrame:
    """Read the labels of each image to one layer.

    Args:
        folder: Folder of GeoJSON files, one for each image; one without features is an image
            without buildings.
        images: Paths of the images.

    Returns:
        The polygons in the CRS of the first file that has any, cleaned as `clean_polygons` says,
        with the column `IMAGE`.

    Raises:
        LayerError: An image has no file, or two have its id; a file is unreadable, without CRS or
            holds lines or points; or there is no polygon at all.

    Warns:
        LabelWarning: Files belong to no image, or polygons were repaired.
    """
    files = label_files(folder)
    if not files:
        raise LayerError(f"no .geojson in {folder}; give a folder with one for each image")
    frames = []
    for image, file in _match(images, files, folder):
        frame = read_features(file)
        if len(frame):
            frames.append(frame.assign(**{IMAGE: Path(image).name}))
    if not frames:
        raise LayerError(f"{folder} holds no polygon; give labels with at least one")
    frames = [
        frame if frame.crs == frames[0].crs else frame.to_crs(frames[0].crs) for frame in frames
    ]
    layer = GeoDataFrame(pd.concat(frames, ignore_index=True))
    return clean_polygons(layer, name=str(folder), allow_empty=False)


def label_files(folder: str | Path) -> list[Path]:
    """The GeoJSON files of a folder, by name."""
    return sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in GEOJSON_SUFFIXES)


def _match(
    images: Sequence[str], files: Sequence[Path], folder: str | Path
) -> list[tuple[str, Path]]:
    """Each image with its file of labels."""
    image_parts = [Path(image).stem.lower().split("_") for image in images]
    file_parts = [file.stem.lower().split("_") for file in files]
    file_of: dict[tuple[str, ...], Path] = {}
    for id_, file in zip(_ids(file_parts, image_parts), files, strict=True):
        if id_ in file_of:
            raise LayerError(
                f"{file_of[id_].name} and {file.name} in {folder} are labels of the same image "
                f"{'_'.join(id_)}; leave one of them there"
            )
        file_of[id_] = file
    ids = _ids(image_parts, file_parts)
    bare = [Path(image).name for image, id_ in zip(images, ids, strict=True) if id_ not in file_of]
    if bare:
        raise LayerError(
            f"{len(bare)} of {len(images)} images have no labels in {folder}: {name_some(bare)}; "
            f"take them out, or add an empty .geojson of the same id where there is no building"
        )
    idle = [file.name for id_, file in file_of.items() if id_ not in set(ids)]
    if idle:
        warnings.warn(
            f"{len(idle)} of {len(files)} files in {folder} belong to no image and are left out: "
            f"{name_some(idle)}",
            LabelWarning,
            stacklevel=4,
        )
    return [(image, file_of[id_]) for image, id_ in zip(images, ids, strict=True)]


def _ids(names: Sequence[Sequence[str]], others: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """Names less the parts that all of them have and none of the others."""
    common = set(names[0]).intersection(*names).difference(*others)
    return [tuple(part for part in name if part not in common) for name in names]


def name_some(files: Sequence[str]) -> str:
    """The first few files by name, and how many more there are."""
    more = len(files) - _NAMED
    return ", ".join(files[:_NAMED]) + (f" and {more} more" if more > 0 else "")
