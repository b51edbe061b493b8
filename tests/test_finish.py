"""Layers from kept runs: equal to what `predict` makes, and clear about runs that are no good."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import geopandas as gpd
import numpy as np
import pytest
import shapely
from affine import Affine
from geopandas.testing import assert_geodataframe_equal
from known_buildings import (
    KnownBuildings,
    Seen,
    doubled,
    misnamed_at_edges,
    missing,
    noisy,
    under_every_name,
)
from known_town import HEIGHT, NORTH_UP, TOWN, UTM, WIDTH, on_ground
from labelled_scenes import write_image
from pyarrow import parquet
from shapely import box
from shapely.affinity import affine_transform, translate
from typer.testing import CliRunner

import footprints as fp
from footprints.chip import Chip, InputSpec, Instances, Scaling
from footprints.cli import app
from footprints.config import CORNERS
from footprints.errors import ConfigError, FootprintsWarning, LayerError, OutputError, RunError
from footprints.vector.scenes import scenes_of

SHEDS = [translate(box(0, 0, 7, 6), 215 + 17 * (i % 4), 110 + 19 * (i // 4)) for i in range(20)]
BUILDINGS = [*TOWN, *SHEDS]
KINDS = ("house", "hall", "shed")
GRID = {"chip_size": 128, "overlap": 40, "progress": False}


def unsure(seen: Seen) -> Seen:
    """Confidences anywhere from 0 to 1, other ones in every chip."""
    scores = [seen.rng(i).uniform(0, 1) for i in range(len(seen.polygons))]
    return replace(seen, scores=np.array(scores))


BAD = KnownBuildings(on_ground(BUILDINGS), flaws=[noisy, doubled, unsure, missing(0.2)])
"""Everything that seams, doubles and confidences can get wrong."""


def write_scene(path: Path, **options) -> Path:
    pixels = np.random.default_rng(0).integers(40, 250, (1, HEIGHT, WIDTH)).astype(np.uint8)
    pixels[:, :20, :20] = 0
    options = {"transform": NORTH_UP, "crs": UTM, "nodata": 0, **options}
    return write_image(path, pixels, **options)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The town's raster, with a corner that has no data."""
    return write_scene(tmp_path_factory.mktemp("scene") / "town.tif")


@pytest.fixture(scope="module")
def run(scene: Path) -> Path:
    """A kept run of it."""
    fp.predict(scene, detector=BAD, keep=scene.parent / "run", **GRID)
    return scene.parent / "run"


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be damaged."""
    return Path(shutil.copytree(run, tmp_path / "run"))


@pytest.mark.parametrize(
    "wanted",
    [
        {"confidence": None},
        {"confidence": 0.05, "min_area_m2": 0.0},
        {"confidence": 0.2, "min_area_m2": 20.0},
        {"confidence": 0.4, "regularize": "auto", "tolerance_m": 0.8},
        {"confidence": 0.75, "min_area_m2": 0.0, "simplify_m": 0.5},
        {"confidence": 1.0},
    ],
)
def test_a_finished_layer_is_the_predicted_one(scene, run, wanted):
    predicted = fp.predict(scene, detector=BAD, **wanted, **GRID)
    finished = fp.finish(run, progress=False, **wanted)
    assert_geodataframe_equal(finished, predicted)
    assert finished.attrs == predicted.attrs
    (record,) = scenes_of(finished)
    assert record.parameters["regularize"] == wanted.get("regularize")
    assert record.parameters["simplify_m"] == wanted.get("simplify_m")


def test_thresholds_change_what_is_found(run):
    numbers = [len(fp.finish(run, confidence=c, progress=False)) for c in (0.05, 0.4, 0.8, 1)]
    assert numbers == sorted(set(numbers), reverse=True)
    assert numbers[-1] == 0
    large = fp.finish(run, confidence=0.05, min_area_m2=50, progress=False)
    assert 0 < len(large) < numbers[0]
    assert (large["area_m2"] >= 50).all()


@pytest.mark.parametrize("confidence", [0.02, 0.3, 0.9])
def test_keeping_does_not_change_the_layer(scene, tmp_path, confidence):
    detector = replace(BAD, keypoints=CORNERS)
    options = {"detector": detector, "confidence": confidence, **GRID}
    plain = fp.predict(scene, keypoints=tmp_path / "plain.parquet", **options)
    kept = fp.predict(scene, keypoints=tmp_path / "kept.parquet", keep=tmp_path / "run", **options)
    assert_geodataframe_equal(kept, plain)
    again = fp.finish(
        tmp_path / "run",
        keypoints=tmp_path / "again.parquet",
        confidence=confidence,
        progress=False,
    )
    assert_geodataframe_equal(again, plain)
    corners = (tmp_path / "plain.parquet").read_bytes()
    assert (tmp_path / "kept.parquet").read_bytes() == corners
    assert (tmp_path / "again.parquet").read_bytes() == corners


@pytest.mark.parametrize("overlaps", [None, True, False])
def test_classes_and_overlaps_are_finished_as_predicted(scene, tmp_path, overlaps):
    detector = KnownBuildings(
        on_ground(BUILDINGS),
        classes=KINDS,
        labels=np.arange(len(BUILDINGS)) % len(KINDS),
        flaws=[unsure, under_every_name(len(KINDS)), misnamed_at_edges(len(KINDS))],
    )
    fp.predict(scene, detector=detector, keep=tmp_path / "run", confidence=0.9, **GRID)
    wanted = {"confidence": 0.3, "overlaps": overlaps}
    predicted = fp.predict(scene, detector=detector, **wanted, **GRID)
    assert predicted["class"].nunique() == len(KINDS)
    assert_geodataframe_equal(fp.finish(tmp_path / "run", progress=False, **wanted), predicted)


def test_pictures_keep_their_overlaps_and_pixels(tmp_path):
    things = [box(20, 30, 120, 200), box(90, 60, 240, 180)]
    detector = KnownBuildings(
        things,
        input_spec=InputSpec(1, None, Scaling((0.0,), (1.0,)), short_side=200),
        classes=("person", "bus"),
        labels=[0, 1],
    )
    picture = write_scene(tmp_path / "photo.tif", nodata=None)
    wanted = {"detector": detector, "pixels": True, "progress": False}
    predicted = fp.predict(picture, keep=tmp_path / "run", **wanted)
    finished = fp.finish(tmp_path / "run", progress=False)
    assert_geodataframe_equal(finished, predicted)
    assert finished.crs is None
    assert finished.geometry[0].intersection(finished.geometry[1]).area > 1000
    apart = fp.finish(tmp_path / "run", overlaps=False, progress=False)
    assert_geodataframe_equal(apart, fp.predict(picture, overlaps=False, **wanted))
    assert not apart.geometry[0].intersects(apart.geometry[1].buffer(-0.01))
    with pytest.raises(LayerError, match="without coordinate reference system cannot be moved"):
        fp.finish(tmp_path / "run", out_crs=UTM, progress=False)


def test_several_scenes_in_several_crs_are_finished_as_predicted(tmp_path):
    degrees = {"crs": "EPSG:4326", "transform": Affine(2.7e-6, 0, 85.5, 0, -2.7e-6, 27.63)}
    scenes = [
        write_scene(tmp_path / "east" / "town.tif"),
        write_scene(tmp_path / "west" / "town.tif", **degrees),
        write_scene(tmp_path / "south.tif", transform=NORTH_UP @ Affine.translation(0, 100)),
    ]

    class BothTowns(KnownBuildings):
        def __call__(self, chips: list[Chip]) -> list[Instances]:
            if chips[0].crs == UTM:
                return super().__call__(chips)
            t, u = degrees["transform"], ~NORTH_UP
            to_west = t @ u
            west = [
                affine_transform(b, [*to_west[:2], *to_west[3:5], to_west.c, to_west.f])
                for b in self.polygons
            ]
            return replace(BAD, polygons=west)(chips)

    detector = BothTowns(BAD.polygons, flaws=BAD.flaws)
    fp.predict(scenes, detector=detector, keep=tmp_path / "run", **GRID)
    wanted = {"confidence": 0.35, "out_crs": "EPSG:3857"}
    predicted = fp.predict(scenes, detector=detector, **wanted, **GRID)
    assert predicted["source"].nunique() == 3
    assert_geodataframe_equal(fp.finish(tmp_path / "run", progress=False, **wanted), predicted)


def test_a_scene_without_data_is_kept_too(scene, tmp_path):
    empty = write_image(
        tmp_path / "empty.tif",
        np.zeros((1, HEIGHT, WIDTH), np.uint8),
        transform=NORTH_UP,
        crs=UTM,
        nodata=0,
    )
    detector = replace(BAD, keypoints=CORNERS)
    with pytest.warns(FootprintsWarning, match="no pixel with data"):
        predicted = fp.predict([empty, scene], detector=detector, keep=tmp_path / "run", **GRID)
    assert_geodataframe_equal(fp.finish(tmp_path / "run", progress=False), predicted)
    assert set(predicted["source"]) == {"town.tif"}
    with pytest.warns(FootprintsWarning, match="no pixel with data"):
        fp.predict(empty, detector=detector, keep=tmp_path / "none", **GRID)
    options = {"keypoints": tmp_path / "c.gpkg", "progress": False}
    assert len(fp.finish(tmp_path / "none", **options)) == 0
    assert len(gpd.read_file(tmp_path / "c.gpkg")) == 0


@pytest.mark.parametrize("suffix", [".gpkg", ".parquet", ".geojson"])
def test_a_finished_file_has_the_bytes_of_the_predicted_one(scene, run, tmp_path, suffix):
    predicted, finished = (tmp_path / by / f"a{suffix}" for by in ("predict", "finish"))
    for path in (predicted, finished):
        path.parent.mkdir()
    fp.predict(scene, detector=BAD, output=predicted, **GRID)
    fp.finish(run, output=finished, progress=False)
    assert finished.read_bytes() == predicted.read_bytes()


def test_the_network_is_not_needed(run, tmp_path):
    result = CliRunner().invoke(
        app, ["finish", str(run), "-o", str(tmp_path / "a.gpkg"), "--confidence", "0.4"]
    )
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith(f"{len(gpd.read_file(tmp_path / 'a.gpkg'))} buildings, ")
    assert result.stderr == ""


# What a run holds.


def test_a_run_is_geoparquet_and_json(run):
    head = json.loads((run / "run.json").read_text())
    assert (head["model"], head["classes"]) == ("known-buildings", ["building"])
    (town,) = head["scenes"]
    fine, wide = town["passes"]
    assert (fine["height"], fine["width"], fine["size"]) == (HEIGHT, WIDTH, 128)
    assert {path.name for path in run.iterdir()} == {"run.json", fine["file"], wide["file"]}
    outlines = gpd.read_parquet(run / fine["file"])
    assert len(outlines) == fine["instances"] > 2 * len(BUILDINGS)
    assert outlines.crs is None
    assert outlines["confidence"].min() < 0.05
    # Raw: cut at the chips' edges, doubled, in pixels of the scene.
    inside = box(0, 0, WIDTH, HEIGHT)
    assert outlines.geometry.within(inside.buffer(1e-6)).all()
    assert outlines.geometry.area.sum() > 1.5 * shapely.union_all(BUILDINGS).area


def test_a_run_says_where_a_scene_has_data(run):
    (town,) = json.loads((run / "run.json").read_text())["scenes"]
    rows = [shapely.from_geojson(json.dumps(row["valid"])) for row in town["passes"][0]["rows"]]
    expected = box(0, 0, WIDTH, HEIGHT).difference(box(0, 0, 20, 20))
    assert shapely.union_all(rows).symmetric_difference(expected).area < 1


def test_no_run_is_there_when_it_fails(scene, tmp_path):
    class Failing(KnownBuildings):
        def __call__(self, chips: list[Chip]) -> list[Instances]:
            if chips[0].window.y > 100:
                raise EOFError
            return super().__call__(chips)

    with pytest.raises(EOFError):
        fp.predict(scene, detector=Failing([]), keep=tmp_path / "run", **GRID)
    assert list(tmp_path.iterdir()) == [tmp_path / ".run.unfinished"]


def test_a_full_disk_leaves_the_run_that_was_there(scene, copied, monkeypatch):
    before = {path.name: path.read_bytes() for path in copied.iterdir()}

    class Full(parquet.ParquetWriter):
        def write_table(self, *_args, **_kwargs):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("footprints.vector.kept.parquet", SimpleNamespace(ParquetWriter=Full))
    with pytest.raises(OutputError, match=r"scene-0001\.parquet of the kept run: .*No space"):
        fp.predict(scene, detector=BAD, keep=copied, overwrite=True, **GRID)
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == before
    assert {path.name for path in copied.parent.iterdir()} == {"run", ".run.unfinished"}


def test_a_run_is_replaced_only_when_asked(scene, copied, tmp_path):
    with pytest.raises(OutputError, match=r"kept run exists: .*run; replace it with --overwrite"):
        fp.predict(scene, detector=BAD, keep=copied, **GRID)
    fewer = replace(BAD, polygons=BAD.polygons[:2])
    layer = fp.predict(scene, detector=fewer, keep=copied, overwrite=True, **GRID)
    assert_geodataframe_equal(fp.finish(copied, progress=False), layer)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years")
    with pytest.raises(OutputError, match=r"not a kept run: .*mine; only those are replaced"):
        fp.predict(scene, detector=BAD, keep=mine, overwrite=True, **GRID)
    assert (mine / "thesis.txt").read_text() == "years"


# Runs that are no good, and mistakes.


def change_head(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        head = json.loads((run / "run.json").read_text())
        change(head)
        (run / "run.json").write_text(json.dumps(head))

    return damage


def flip(run: Path) -> None:
    """Turn some bits in the middle of the outlines."""
    path = run / "scene-0001.parquet"
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 8] = bytes(255 - byte for byte in content[middle : middle + 8])
    path.write_bytes(content)


def cut_short(run: Path) -> None:
    path = run / "scene-0001.parquet"
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        pytest.param(shutil.rmtree, "is no kept run", id="not there"),
        pytest.param(lambda run: (run / "run.json").unlink(), "holds no run.json", id="no head"),
        pytest.param(
            lambda run: (run / "run.json").write_text('{"footpr'), "run.json is damaged", id="half"
        ),
        pytest.param(
            lambda run: (run / "scene-0001-wide.parquet").unlink(),
            r"scene-0001-wide\.parquet is missing",
            id="a file less",
        ),
        pytest.param(cut_short, r"scene-0001\.parquet is damaged", id="a file cut short"),
        pytest.param(flip, r"scene-0001\.parquet is damaged", id="turned bits"),
        pytest.param(
            change_head(lambda head: head.update(footprints_run=7)),
            "format 7, this version of footprints reads 1",
            id="of another version",
        ),
        pytest.param(
            change_head(lambda head: head.pop("classes")),
            "classes: Field required",
            id="a key less",
        ),
        pytest.param(
            change_head(lambda head: head["scenes"][0].update(crs="moon")), "moon", id="no CRS"
        ),
        pytest.param(
            change_head(lambda head: head["scenes"][0]["passes"][0].update(instances=3)),
            "instances in 3 rows of chips, run.json says 3 in 3",
            id="of another run",
        ),
        pytest.param(
            change_head(lambda head: head["scenes"][0]["passes"][0]["rows"].pop()),
            "rows do not fit a grid of 9 chips",
            id="a row less",
        ),
    ],
)
def test_a_damaged_run_is_one_line_and_no_layer(copied, tmp_path, damage, words):
    damage(copied)
    with pytest.raises(RunError, match=words) as error:
        fp.finish(copied, output=tmp_path / "a.gpkg", progress=False)
    assert "predict" in str(error.value)
    result = CliRunner().invoke(app, ["finish", str(copied), "-o", str(tmp_path / "a.gpkg"), "-q"])
    assert result.exit_code == 1
    assert result.stderr.startswith("footprints: ")
    assert len(result.stderr.splitlines()) == 1
    assert {path.name for path in tmp_path.iterdir()} <= {"run"}


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        pytest.param({"confidence": 0.01}, RunError, "down to confidence 0.05, got 0.01", id="low"),
        pytest.param({"confidence": 2}, ConfigError, "got 2", id="sure twice"),
        pytest.param({"min_area_m2": -1}, ConfigError, "got -1", id="negative area"),
        pytest.param({"out_crs": "moon"}, ConfigError, "'moon'", id="unknown CRS"),
        pytest.param({"keypoints": "c.gpkg"}, ConfigError, "finds no keypoints", id="keypoints"),
        pytest.param({"output": "a.docx"}, OutputError, r"\.docx", id="a document"),
        pytest.param(
            {"out_crs": "+proj=gnom +lat_0=-27.6 +lon_0=-94.5"},
            LayerError,
            "outside the domain",
            id="a CRS not defined there",
        ),
    ],
)
def test_mistakes_are_found_first(run, options, error, words, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("footprints.finishing.kept_scenes", None)
    with pytest.raises(error, match=words):
        fp.finish(run, **options)
    assert not list(tmp_path.iterdir())
