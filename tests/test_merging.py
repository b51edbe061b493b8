"""Layers of parts of a town, merged: the town, every building once."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import shapely
from affine import Affine
from geopandas import GeoDataFrame, GeoSeries
from known_buildings import KnownBuildings, best_ious, noisy, short
from known_town import HEIGHT, HOUSES, NORTH_UP, TOWN, UTM, WAREHOUSE, WIDTH, on_ground
from labelled_scenes import write_image
from shapely import Polygon, box

import footprints as fp
from footprints.errors import LayerError, OutputError
from footprints.vector.layer import check_layer
from footprints.vector.read import read_layer
from footprints.vector.scenes import scenes_of
from footprints.vector.write import write_layer

Part = tuple[int, int, int, int]
"""A part of the town as x_min, y_min, x_max, y_max in pixels."""

SPLITS: dict[str, list[Part]] = {
    "overlapping": [(0, 0, 160, HEIGHT), (120, 0, WIDTH, HEIGHT)],
    "hardly overlapping": [(0, 0, 146, HEIGHT), (143, 0, WIDTH, HEIGHT)],
    "mostly overlapping": [(0, 0, 220, HEIGHT), (60, 0, WIDTH, HEIGHT)],
    "abutting": [(0, 0, 130, HEIGHT), (130, 0, WIDTH, HEIGHT)],
    "abutting within a house of a terrace": [(0, 0, 112, HEIGHT), (112, 0, WIDTH, HEIGHT)],
    "above one another": [(0, 0, WIDTH, 66), (0, 66, WIDTH, HEIGHT)],
    "four overlapping": [
        (0, 0, 130, 200), (90, 0, WIDTH, 200), (0, 160, 130, HEIGHT), (90, 160, WIDTH, HEIGHT),
    ],
    "four abutting, the warehouse in all": [
        (0, 0, 110, 180), (110, 0, WIDTH, 180), (0, 180, 110, HEIGHT), (110, 180, WIDTH, HEIGHT),
    ],
    "one inside the other": [(0, 0, WIDTH, HEIGHT), (60, 40, 220, 220)],
}  # fmt: skip


TRUTH = on_ground(TOWN)


@pytest.fixture
def predict(tmp_path: Path) -> Callable[..., GeoDataFrame]:
    """Predict a part of the town."""

    def predict_part(part: Part, name: str = "", flaws=(), *, truth=TRUTH, **options):
        x_min, y_min, x_max, y_max = part
        name = name or f"{x_min}-{y_min}.tif"
        pixels = np.random.default_rng(0).integers(40, 250, (1, y_max - y_min, x_max - x_min))
        here = NORTH_UP @ Affine.translation(x_min, y_min)
        scene = write_image(tmp_path / name, pixels.astype(np.uint8), transform=here, crs=UTM)
        detector = KnownBuildings(truth, flaws)
        # Small pieces are needed to make a building whole.
        options = {"chip_size": 128, "overlap": 40, "min_area_m2": 0, "progress": False, **options}
        return fp.predict(scene, detector=detector, **options)

    return predict_part


def assert_is_town(layer: GeoDataFrame, iou: float = 0.97, truth: Sequence[Polygon] = TRUTH):
    check_layer(layer)
    assert len(layer) == len(truth)
    assert best_ious(layer.geometry.to_numpy(), truth).min() >= iou
    polygons = layer.geometry.to_numpy()
    first, second = shapely.STRtree(polygons).query(polygons, predicate="intersects")
    shared = shapely.area(shapely.intersection(polygons[first], polygons[second]))
    assert shared[first != second].sum() < 1e-6


# The parts make the whole.


@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS)
def test_predicting_parts_and_merging_is_predicting_the_whole(predict, split):
    parts = [predict(part) for part in split]
    assert sum(map(len, parts)) > len(TOWN)
    merged = fp.merge_layers(parts)
    assert_is_town(merged)
    whole = predict((0, 0, WIDTH, HEIGHT))
    assert best_ious(merged.geometry.to_numpy(), list(whole.geometry)).min() >= 0.97
    assert len(scenes_of(merged)) == len(split)


@pytest.mark.parametrize("split", ["overlapping", "four overlapping", "mostly overlapping"])
@pytest.mark.parametrize(("flaw", "iou"), [(noisy, 0.75), (short, 0.6)], ids=["noisy", "short"])
def test_a_detector_that_is_not_perfect_gives_every_building_once_too(predict, split, flaw, iou):
    merged = fp.merge_layers([predict(part, flaws=[flaw]) for part in SPLITS[split]])
    assert_is_town(merged, iou=iou)


def test_the_order_of_layers_changes_nothing_but_the_order_of_rows(predict):
    parts = [predict(part) for part in SPLITS["four overlapping"]]
    first, second = fp.merge_layers(parts), fp.merge_layers(parts[::-1])
    assert set(first["source"]) == set(second["source"])
    assert best_ious(first.geometry.to_numpy(), list(second.geometry)).min() > 0.99


def test_a_whole_building_beats_the_piece_of_another_scene(predict):
    left, right = predict((0, 0, 160, HEIGHT), "left.tif"), predict((90, 0, WIDTH, HEIGHT), "r.tif")
    merged = fp.merge_layers([left, right])
    # The house that the left scene's edge cuts stands whole in the right one.
    [house] = on_ground([HOUSES[3]])
    found = merged.loc[merged.geometry.intersection(house).area.idxmax()]
    assert found["source"] == "r.tif"
    assert not found["cut"]
    assert found["id"] in set(right["id"])


def test_pieces_that_both_scenes_cut_are_joined(predict):
    parts = SPLITS["four abutting, the warehouse in all"]
    names = ["a.tif", "b.tif", "c.tif", "d.tif"]
    merged = fp.merge_layers([predict(*part) for part in zip(parts, names, strict=True)])
    [found] = merged[merged.geometry.area > 1000].itertuples()
    assert found.source == "a.tif + b.tif + c.tif + d.tif"
    assert not found.cut
    assert found.area_m2 == pytest.approx(WAREHOUSE.area * 0.09, rel=0.01)
    assert 0.6 <= found.confidence <= 1


def test_houses_of_a_terrace_are_never_joined(predict):
    row = on_ground([box(20 + 12 * i, 50, 32 + 12 * i, 78) for i in range(18)])
    for edge in range(100, 112, 3):
        left = predict((0, 0, edge, 130), "left.tif", truth=row)
        right = predict((edge, 0, WIDTH, 130), "right.tif", truth=row)
        merged = fp.merge_layers([left, right])
        # Of a house cut to a few pixels next to nothing is left to see.
        assert len(row) - 1 <= len(merged) <= len(row)
        assert merged.geometry.area.max() <= 1.15 * row[0].area


def test_what_two_scenes_show_comes_once_from_where_it_lies_farther_inside(predict):
    left, right = predict((0, 0, 220, HEIGHT), "l.tif"), predict((60, 0, WIDTH, HEIGHT), "r.tif")
    merged = fp.merge_layers([left, right])
    for house, source in ((HOUSES[1], "l.tif"), (HOUSES[3], "r.tif")):
        [place] = on_ground([house])
        found = merged.loc[merged.geometry.intersection(place).area.idxmax()]
        assert found["source"] == source


def test_at_the_outer_edge_buildings_stay_cut(predict):
    merged = fp.merge_layers([predict((0, 0, 130, 200)), predict((130, 0, WIDTH, 200))])
    assert merged["cut"].sum() == 1
    assert merged.loc[merged["cut"], "source"].item() == "0-0.tif + 130-0.tif"


def test_a_layer_of_one_scene_stays_as_it_is(predict):
    layer = predict((0, 0, 160, HEIGHT))
    merged = fp.merge_layers([layer])
    assert merged.equals(layer)
    assert scenes_of(merged) == scenes_of(layer)


def test_scenes_of_one_layer_are_merged_as_well(predict, tmp_path):
    for part in SPLITS["overlapping"]:
        predict(part)
    scenes = [tmp_path / "0-0.tif", tmp_path / "120-0.tif"]
    options = {"detector": KnownBuildings(TRUTH), "chip_size": 128, "overlap": 40}
    doubled = fp.predict(scenes, overlaps=True, progress=False, **options)
    assert len(doubled) > len(TOWN)
    assert_is_town(fp.merge_layers([doubled]))
    assert_is_town(fp.predict(scenes, progress=False, **options))


def test_a_merged_layer_can_be_merged_again(predict):
    first, second, third, fourth = (
        predict(part) for part in SPLITS["four abutting, the warehouse in all"]
    )
    above = fp.merge_layers([first, second])
    assert above["source"].str.contains(" + ", regex=False).any()
    merged = fp.merge_layers([above, fp.merge_layers([third, fourth])])
    assert_is_town(merged)
    assert merged.loc[merged.geometry.area.idxmax(), "source"].count(" + ") == 3


# Places.


@pytest.mark.parametrize("split", ["overlapping", "abutting"])
def test_layers_in_other_crs_are_brought_to_the_firsts(predict, split):
    left, right = SPLITS[split]
    merged = fp.merge_layers([predict(left), predict(right, out_crs="EPSG:4326")])
    assert merged.crs == UTM
    assert_is_town(merged)


def test_layers_in_degrees_merge_in_degrees(predict):
    merged = fp.merge_layers(
        [predict(part, out_crs="EPSG:4326") for part in SPLITS["four overlapping"]]
    )
    assert merged.crs == "EPSG:4326"
    assert_is_town(merged, truth=list(GeoSeries(TRUTH, crs=UTM).to_crs(4326)))


def test_layers_with_and_without_crs_do_not_merge(predict):
    pixels = predict((0, 0, 160, HEIGHT), pixels=True)
    with pytest.raises(LayerError, match="with and without coordinate reference system"):
        fp.merge_layers([predict((120, 0, WIDTH, HEIGHT)), pixels])


# Columns and files.


def test_other_columns_survive(predict):
    left, right = (predict(part) for part in SPLITS["abutting"])
    left.insert(7, "captured", "2024-05-01")
    right.insert(7, "captured", "2025-01-01")
    left.insert(8, "storeys", 2)
    merged = fp.merge_layers([left, right])
    assert list(merged.columns[7:]) == ["captured", "storeys", "geometry"]
    check_layer(merged)
    for source, captured in (("0-0.tif", "2024-05-01"), ("130-0.tif", "2025-01-01")):
        assert set(merged.loc[merged["source"] == source, "captured"]) == {captured}
    # The warehouse lies mostly in the left scene.
    assert merged.loc[merged.geometry.area.idxmax(), "captured"] == "2024-05-01"


@pytest.mark.parametrize("suffix", [".gpkg", ".shp", ".parquet", ".fgb", ".geojson"])
def test_files_merge_like_layers_in_memory(predict, tmp_path, suffix):
    paths = [tmp_path / f"{name}{suffix}" for name in ("west", "east")]
    parts = [predict(part) for part in SPLITS["overlapping"]]
    for part, path in zip(parts, paths, strict=True):
        write_layer(part, path)
    output = tmp_path / "town.gpkg"
    merged = fp.merge_layers(paths, output=output)
    assert sorted(merged["id"]) == sorted(fp.merge_layers(parts)["id"])
    read = read_layer(output)
    assert scenes_of(read) == scenes_of(merged)
    assert read["source"].tolist() == merged["source"].tolist()
    assert_is_town(read.to_crs(UTM))


def test_a_folder_stands_for_its_layers_but_the_one_to_write(predict, tmp_path):
    folder = tmp_path / "layers"
    folder.mkdir()
    parts = [predict(part) for part in SPLITS["overlapping"]]
    for name, part in zip(("b.gpkg", "a.parquet"), parts, strict=True):
        write_layer(part, folder / name)
    (folder / "b.gpkg.failures.csv").touch()
    expected = fp.merge_layers(parts[::-1])
    for _ in range(2):
        merged = fp.merge_layers(folder, output=folder / "town.fgb", overwrite=True)
        assert merged.drop(columns="geometry").equals(expected.drop(columns="geometry"))
        assert shapely.equals_exact(merged.geometry, expected.geometry).all()
    (tmp_path / "none").mkdir()
    with pytest.raises(LayerError, match=r"^no layer in .*none; name layers \(\.gpkg, "):
        fp.merge_layers([tmp_path / "none"])


def test_scenes_of_one_name_are_told_apart_by_their_layers(predict, tmp_path):
    paths = []
    for folder, part in zip(("west", "east"), SPLITS["overlapping"], strict=True):
        paths.append(tmp_path / f"{folder}.gpkg")
        write_layer(predict(part, "town.tif"), paths[-1])
    merged = fp.merge_layers(paths)
    assert {scene.source for scene in scenes_of(merged)} == {"west/town.tif", "east/town.tif"}
    assert set(merged["source"]) == {
        "west/town.tif", "east/town.tif", "east/town.tif + west/town.tif"
    }  # fmt: skip
    assert_is_town(merged)


def test_an_empty_layer_takes_part(predict):
    merged = fp.merge_layers([predict((0, 0, WIDTH, HEIGHT)), predict((0, 0, 18, 100), "x.tif")])
    assert_is_town(merged)
    assert len(scenes_of(merged)) == 2
    empty = predict((0, 0, 18, 100))
    assert fp.merge_layers([empty, empty]).empty


# Mistakes.


def test_a_layer_without_record_is_refused(predict, tmp_path):
    layer = predict(SPLITS["abutting"][0])
    layer.attrs = {}
    write_layer(layer, tmp_path / "bare.gpkg")
    with pytest.raises(LayerError, match=r"bare\.gpkg does not say where its scenes lie; give"):
        fp.merge_layers([tmp_path / "bare.gpkg"], output=tmp_path / "out.gpkg")
    assert not (tmp_path / "out.gpkg").exists()


def test_what_is_no_footprint_layer_is_refused(predict, tmp_path):
    layer = predict(SPLITS["abutting"][0])
    with pytest.raises(LayerError, match=r"layer 2 is no footprint layer: .* columns are id"):
        fp.merge_layers([layer, layer.drop(columns="confidence")])
    with pytest.raises(LayerError, match=r"not found: .*nowhere\.gpkg"):
        fp.merge_layers([tmp_path / "nowhere.gpkg"])
    with pytest.raises(LayerError, match="no layer given"):
        fp.merge_layers([])


def test_a_source_that_is_none_of_the_scenes_is_refused(predict):
    layer = predict(SPLITS["abutting"][0])
    layer["source"] = "elsewhere.tif"
    with pytest.raises(LayerError, match=r"names 'elsewhere\.tif', .* scenes: 0-0\.tif"):
        fp.merge_layers([layer])


def test_an_output_that_exists_is_found_before_the_work(predict, tmp_path):
    (tmp_path / "town.gpkg").write_text("mine")
    with pytest.raises(OutputError, match="output exists"):
        fp.merge_layers([tmp_path / "nowhere.gpkg"], output=tmp_path / "town.gpkg")
    assert (tmp_path / "town.gpkg").read_text() == "mine"
