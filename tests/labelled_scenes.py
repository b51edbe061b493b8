"""Small scenes with labels, painted so that pixels tell what the targets must be."""

from collections.abc import Sequence
from pathlib import Path

import geopandas as gpd
import numpy as np
import rasterio
import shapely
from affine import Affine
from rasterio.features import rasterize

from footprints.data.labels import TrainingScene
from footprints.vector.affine import apply_affine

ROOF, GROUND = 200, 50
NORTH_UP = Affine(0.5, 0, 500_000, 0, -0.5, 4_000_000)
UTM = "EPSG:32633"


def write_image(
    path: Path,
    pixels: np.ndarray,
    *,
    transform: Affine = NORTH_UP,
    crs: str | None = UTM,
    nodata: float | None = None,
) -> Path:
    """Write (bands, height, width) pixels as a GeoTIFF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bands, height, width = pixels.shape
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=width,
        height=height,
        count=bands,
        dtype=pixels.dtype,
        crs=crs,
        transform=transform,
        nodata=nodata,
        photometric="minisblack",
    ) as dataset:
        dataset.write(pixels)
    return path


def write_layer(
    path: Path,
    polygons: Sequence[shapely.Geometry],
    *,
    transform: Affine = NORTH_UP,
    crs: str | None = UTM,
    **columns: object,
) -> Path:
    """Write polygons given in raster pixels as a vector layer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    placed = apply_affine(np.array(polygons, dtype=object), transform)
    gpd.GeoDataFrame(columns, geometry=list(placed), crs=crs).to_file(path)
    return path


def paint(polygons: Sequence[shapely.Geometry], height: int, width: int, bands: int = 3):
    """(bands, height, width) uint8: `ROOF` on pixels whose centre is on a polygon."""
    roofs = rasterize(polygons, (height, width), dtype=np.uint8) if polygons else 0
    return np.broadcast_to(GROUND + (ROOF - GROUND) * roofs, (bands, height, width)).astype(
        np.uint8
    )


def make_scene(
    folder: Path,
    buildings: Sequence[shapely.Geometry],
    *,
    height: int = 200,
    width: int = 300,
    name: str = "scene",
    transform: Affine = NORTH_UP,
    crs: str = UTM,
    aoi: shapely.Geometry | None = None,
    bands: int = 3,
) -> TrainingScene:
    """Write an image painted from its buildings, given in raster pixels, and their layer."""
    image = write_image(
        folder / f"{name}.tif",
        paint(buildings, height, width, bands),
        transform=transform,
        crs=crs,
    )
    labels = write_layer(folder / f"{name}.gpkg", buildings, transform=transform, crs=crs)
    area = None
    if aoi is not None:
        area = write_layer(folder / f"{name}_aoi.gpkg", [aoi], transform=transform, crs=crs)
    return TrainingScene(image, labels, aoi=area)
