"""Pictures of outlines before and after, for docs/polygons.md.

    python tests/benchmarks/polygon_pictures.py [-o docs]

Left, what the network gives chip by chip, with the edges of the chips; right, the layer with seams
closed, at right angles where roofs are. The sample scene is shown with its image. Of Banepa
(FOOTPRINTS_DATA), whose image is not ours to ship, only the outlines are, and it is left out where
it is not found. Places are chosen by what is there: the longest roof, the largest courtyard, the
longest row of buildings that touch.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import geopandas as gpd
import matplotlib.pyplot as plt
import numpy as np
import rasterio
import shapely
from matplotlib.axes import Axes
from rasterio.windows import from_bounds

import footprints as fp
from footprints.vector.affine import apply_affine
from footprints.vector.kept import KeptPass, kept_scenes, read_run
from footprints.vector.seams import windows_of

REPOSITORY = Path(__file__).parents[2]
DATA = Path(os.environ.get("FOOTPRINTS_DATA", REPOSITORY / "../shared/data"))
SIDE_M = 75.0
CHIPS, RAW, DONE = "#2b6cb0", "#e53e3e", "#22863a"


def main() -> None:
    """Draw all pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=REPOSITORY / "docs")
    options = parser.parse_args()
    town = REPOSITORY / "data_samples" / "town.tif"
    draw(town, options.output / "polygons-town.jpg", with_image=True)
    banepa = DATA / "banepa" / "south.tif"
    if banepa.exists():
        draw(banepa, options.output / "polygons-banepa.jpg", with_image=False)


def draw(scene: Path, path: Path, *, with_image: bool) -> None:
    """One row for each place worth a look."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        plain = fp.predict(scene, keep=run)
        done = fp.finish(run, regularize="auto")
        raw, chips = found_by_chip(run)
    places = places_of(plain)
    figure, axes = plt.subplots(len(places), 2, figsize=(11, 5.5 * len(places)), squeeze=False)
    for (name, box), (left, right) in zip(places.items(), axes, strict=True):
        for axis in (left, right):
            if with_image:
                show_image(axis, scene, box)
            axis.set_xlim(box[0], box[2])
            axis.set_ylim(box[1], box[3])
            axis.set_aspect("equal")
            axis.set_xticks([])
            axis.set_yticks([])
        gpd.GeoSeries(chips).boundary.plot(ax=left, color=CHIPS, linewidth=0.8, linestyle="--")
        gpd.GeoSeries(raw).boundary.plot(ax=left, color=RAW, linewidth=1.2)
        done.boundary.plot(ax=right, color=DONE, linewidth=1.6)
        for axis in (left, right):
            axis.set_xlabel("")
            axis.set_ylabel("")
        left.set_title(f"{name}: as found, chip by chip")
        right.set_title("the layer, regularised")
    figure.tight_layout()
    figure.savefig(path, dpi=80, pil_kwargs={"quality": 82})
    plt.close(figure)
    print(f"{path}: {len(raw):,} outlines became {len(done):,} buildings")


def found_by_chip(run: Path) -> tuple[np.ndarray, np.ndarray]:
    """Outlines of the fine pass that reach the default confidence, and the chips, on the ground."""
    kept = read_run(run)
    look: KeptPass = kept.scenes[0].passes[0]
    (scene,) = kept_scenes(run, kept, progress=False)
    outlines = [
        row.outlines.polygons[row.outlines.scores >= kept.confidence]
        for row in scene.passes[0].rows
    ]
    chips = shapely.box(*windows_of(look.chips).T)
    return apply_affine(np.concatenate(outlines), look.affine), apply_affine(chips, look.affine)


def places_of(layer: gpd.GeoDataFrame) -> dict[str, tuple[float, float, float, float]]:
    """Squares (x_min, y_min, x_max, y_max) around what is hard, and whole."""
    layer = layer[~layer["cut"]]
    metre = np.sqrt(layer.area.sum() / layer["area_m2"].sum())
    bounds = layer.bounds
    longest = (bounds["maxx"] - bounds["minx"]).combine(bounds["maxy"] - bounds["miny"], max)
    yards = layer.geometry.map(
        lambda polygon: sum(shapely.Polygon(i).area for i in polygon.interiors)
    )
    touching = gpd.GeoSeries(
        shapely.get_parts(layer.buffer(0.2 * metre).union_all()), crs=layer.crs
    )
    counts = gpd.sjoin(
        layer.set_geometry(layer.representative_point()), touching.to_frame("geometry")
    )
    busiest = touching[counts["index_right"].value_counts().idxmax()]
    chosen = {
        "the longest roof": layer.geometry[longest.idxmax()],
        "a courtyard": layer.geometry[yards.idxmax()],
        "walls in common": busiest,
    }
    if not yards.max():
        del chosen["a courtyard"]
    return {name: around(shape, metre) for name, shape in chosen.items()}


def around(shape: shapely.Geometry, metre: float) -> tuple[float, float, float, float]:
    """A square with a shape in its middle, as wide as that or as `SIDE_M`."""
    x_min, y_min, x_max, y_max = shape.bounds
    half = max(SIDE_M * metre, 1.15 * max(x_max - x_min, y_max - y_min)) / 2
    x, y = (x_min + x_max) / 2, (y_min + y_max) / 2
    return x - half, y - half, x + half, y + half


def show_image(axis: Axes, scene: Path, box: tuple[float, float, float, float]) -> None:
    """The pixels under a square."""
    with rasterio.open(scene) as raster:
        window = from_bounds(*box, transform=raster.transform)
        pixels = raster.read((1, 2, 3), window=window, boundless=True, fill_value=255)
    left, bottom, right, top = box
    axis.imshow(np.moveaxis(pixels, 0, -1), extent=(left, right, bottom, top))


if __name__ == "__main__":
    main()
