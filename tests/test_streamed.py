"""Chunks of footprints, given away while the rest is looked at, are those of the layer."""

import threading
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from known_buildings import KnownBuildings, doubled, noisy
from known_town import HEIGHT, NORTH_UP, TOWN, UTM, WIDTH, on_ground
from labelled_scenes import write_image
from shapely.affinity import translate

import footprints as fp
from footprints import rows
from footprints.chip import Chip, Instances
from footprints.errors import ConfigError, RasterError
from footprints.raster import opening
from footprints.vector.layer import COLUMNS
from footprints.vector.snapping import snap_vertices

TOWNS = 4
TALL = [translate(b, 0, HEIGHT * n) for n in range(TOWNS) for b in TOWN]
GRID = {"chip_size": 128, "overlap": 48, "batch_size": 2}


@dataclass(frozen=True, eq=False)
class Counting(KnownBuildings):
    shown: list[int] = field(default_factory=list)
    """Chips of each batch."""

    def __call__(self, chips: list[Chip]) -> list[Instances]:
        self.shown.append(len(chips))
        return super().__call__(chips)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tall scene with a warehouse wider than a chip in each of its towns."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(40, 250, (1, TOWNS * HEIGHT, WIDTH)).astype(np.uint8)
    path = tmp_path_factory.mktemp("scene") / "towns.tif"
    return write_image(path, pixels, transform=NORTH_UP, crs=UTM)


def counting(buildings: list = TALL) -> Counting:
    return Counting(on_ground(buildings), flaws=[noisy, doubled])


def test_chunks_are_the_layer(scene):
    layer = fp.predict(scene, detector=counting(), progress=False, **GRID)
    chunks = list(fp.predict_iter(scene, detector=counting(), **GRID))
    assert len(chunks) > TOWNS
    assert all(tuple(chunk.columns) == (*COLUMNS, "geometry") for chunk in chunks)
    together = snap_vertices(pd.concat(chunks, ignore_index=True))
    together, layer = (each.sort_values("id", ignore_index=True) for each in (together, layer))
    assert together.area_m2.to_numpy() == pytest.approx(layer.area_m2.to_numpy(), abs=0.02)
    assert together.drop(columns="area_m2").equals(layer.drop(columns="area_m2"))
    wide = layer[layer.area_m2 > 1500]
    assert len(wide) == TOWNS


def test_what_is_final_is_given_away_before_the_rest_is_looked_at(scene):
    detector = counting()
    chunks = fp.predict_iter(scene, detector=detector, **GRID)
    given = [(sum(detector.shown), len(chunk)) for chunk in chunks]
    chips, buildings = sum(detector.shown), sum(count for _, count in given)
    early = sum(count for shown, count in given if shown < 0.8 * chips)
    assert 0.3 * buildings < early < 0.8 * buildings


def test_a_closed_generator_leaves_nothing(scene):
    before = set(threading.enumerate())
    files = set(scene.parent.iterdir())
    detector = counting()
    chunks = fp.predict_iter(scene, detector=detector, **GRID)
    assert len(next(chunks))
    assert set(threading.enumerate()) > before
    chunks.close()
    assert set(threading.enumerate()) == before
    assert set(scene.parent.iterdir()) == files
    shown = len(detector.shown)
    assert next(chunks, None) is None
    assert len(detector.shown) == shown


def test_scenes_follow_one_another_with_numbers_of_their_own(scene, tmp_path):
    second = tmp_path / "again.tif"
    second.write_bytes(scene.read_bytes())
    chunks = list(
        fp.predict_iter([scene, second], detector=counting(), out_crs="EPSG:4326", **GRID)
    )
    assert {chunk.crs.to_epsg() for chunk in chunks} == {4326}
    assert [chunk.source[0] for chunk in chunks] == sorted(
        (chunk.source[0] for chunk in chunks), reverse=True
    )
    everything = pd.concat(chunks, ignore_index=True)
    assert everything.id.is_unique
    assert set(everything.source.value_counts()) == {len(everything) / 2}


def test_a_scene_of_one_chip_has_no_coarse_pass(tmp_path):
    pixels = np.full((1, HEIGHT, WIDTH), 99, dtype=np.uint8)
    small = write_image(tmp_path / "small.tif", pixels, transform=NORTH_UP, crs=UTM)
    (chunk,) = fp.predict_iter(small, detector=counting(TOWN), chip_size=320)
    assert len(chunk) == len(TOWN)


def test_bad_input_is_refused_at_the_first_chunk(tmp_path):
    with pytest.raises(RasterError, match=r"nowhere.tif does not exist"):
        next(fp.predict_iter(tmp_path / "nowhere.tif", detector=counting()))
    with pytest.raises(ConfigError, match=r"--batch-size must be .* from 1 on, got 0"):
        next(fp.predict_iter(tmp_path / "nowhere.tif", detector=counting(), batch_size=0))
    with pytest.raises(ConfigError, match=r"--confidence must be in \[0, 1\], got 2"):
        next(fp.predict_iter(tmp_path / "nowhere.tif", detector=counting(), confidence=2))
    with pytest.raises(ConfigError, match="--min-area must be a number, got 'small'"):
        next(fp.predict_iter(tmp_path / "nowhere.tif", detector=counting(), min_area_m2="small"))


def test_a_budget_bounds_the_batches_and_gdals_cache_while_it_reads(scene, monkeypatch):
    sizes = []
    read = rows.read_chip

    def noting(*args):
        sizes.append(opening._limits().get("GDAL_CACHEMAX"))
        return read(*args)

    monkeypatch.setattr(rows, "read_chip", noting)
    grid = {"chip_size": 128, "overlap": 48}
    with pytest.raises(ConfigError, match="memory of 1 MB does not hold"):
        next(fp.predict_iter(scene, detector=counting(), memory="1MB", **grid))
    chunks = fp.predict_iter(scene, detector=counting(), memory="100GB", **grid)
    assert len(next(chunks))
    assert opening._limits() == {}, "the caller's own reading is not bounded"
    chunks.close()
    assert set(sizes) == {opening.CACHE_BYTES}
