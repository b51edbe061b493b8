"""Images find their GeoJSON by what their names have in common."""

from pathlib import Path

import geopandas as gpd
import pytest
import shapely
from affine import Affine
from labelled_scenes import NORTH_UP, paint, write_image, write_layer

from footprints.data.labels import TrainingScene, read_training_scene
from footprints.errors import LabelWarning, LayerError

HOUSE = shapely.box(20, 30, 60, 50)
EMPTY = '{"type": "FeatureCollection", "features": []}'


def write_pairs(folder: Path, images: list[str], labels: list[str]) -> TrainingScene:
    """Images side by side, each with a label file in WGS 84 of houses on it; see EMPTY."""
    for number, name in enumerate(images):
        place = NORTH_UP @ Affine.translation(200 * number, 0)
        write_image(folder / "images" / f"{name}.tif", paint([HOUSE], 100, 100), transform=place)
    (folder / "labels").mkdir(exist_ok=True)
    for number, name in enumerate(labels):
        place = NORTH_UP @ Affine.translation(200 * number, 0)
        homes = write_layer(folder / "homes.gpkg", [HOUSE] * (number + 1), transform=place)
        gpd.read_file(homes).to_crs(4326).to_file(folder / "labels" / f"{name}.geojson")
    return TrainingScene(folder / "images", folder / "labels")


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        pytest.param(["a", "b"], ["a", "b"], id="equal names"),
        pytest.param(
            ["RGB-PanSharpen_AOI_2_Vegas_img1", "RGB-PanSharpen_AOI_2_Vegas_img22"],
            ["buildings_AOI_2_Vegas_img1", "buildings_AOI_2_Vegas_img22"],
            id="as SpaceNet 2 has them",
        ),
        pytest.param(
            ["SN6_Train_AOI_11_PS-RGB_2019_tile_1", "SN6_Train_AOI_11_PS-RGB_2019_tile_2"],
            ["SN6_Train_AOI_11_Buildings_2019_tile_1", "SN6_Train_AOI_11_Buildings_2019_tile_2"],
            id="as SpaceNet 6 has them",
        ),
        pytest.param(["img_1"], ["1"], id="a single pair"),
    ],
)
def test_images_find_their_labels(tmp_path: Path, images: list[str], labels: list[str]) -> None:
    with pytest.warns(LabelWarning, match="labels is in WGS 84 and was reprojected") as said:
        found = read_training_scene(write_pairs(tmp_path, images, labels))
    assert len(said) == 1
    assert [len(image.polygons) for image in found] == list(range(1, len(images) + 1))
    assert all(shapely.hausdorff_distance(image.polygons[0], HOUSE) < 0.1 for image in found)


def test_a_file_without_features_is_an_image_without_buildings(tmp_path: Path) -> None:
    scene = write_pairs(tmp_path, ["a", "b"], ["a"])
    (tmp_path / "labels" / "b.geojson").write_text(EMPTY)
    with pytest.warns(LabelWarning, match="reprojected"):
        found = read_training_scene(scene)
    assert [len(image.polygons) for image in found] == [1, 0]


def test_labels_count_on_their_own_image_alone(tmp_path: Path) -> None:
    scene = write_pairs(tmp_path, ["a", "b"], ["a", "b"])
    write_image(tmp_path / "images" / "b.tif", paint([HOUSE], 100, 100))
    (tmp_path / "labels" / "b.geojson").write_text(EMPTY)
    with pytest.warns(LabelWarning, match="reprojected"):
        found = read_training_scene(scene)
    assert [len(image.polygons) for image in found] == [1, 0]


def test_images_without_labels_are_named(tmp_path: Path) -> None:
    scene = write_pairs(tmp_path, ["a", "b", "c"], ["a"])
    with pytest.raises(LayerError, match=r"2 of 3 images have no labels in .*: b\.tif, c\.tif; "):
        read_training_scene(scene)


def test_labels_without_image_are_named_and_left_out(tmp_path: Path) -> None:
    scene = write_pairs(tmp_path, ["a"], ["a", "b"])
    with pytest.warns(LabelWarning) as said:
        (image,) = read_training_scene(scene)
    assert "1 of 2 files in" in str(said[0].message)
    assert "b.geojson" in str(said[0].message)
    assert len(image.polygons) == 1


def test_two_files_for_one_image_are_refused(tmp_path: Path) -> None:
    scene = write_pairs(tmp_path, ["a"], ["a"])
    (tmp_path / "labels" / "A.json").write_text(EMPTY)
    with pytest.raises(LayerError, match=r"are labels of the same image a; leave one"):
        read_training_scene(scene)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, r"no \.geojson in .*labels"), (EMPTY, "labels holds no polygon")],
    ids=["an empty folder", "files without features"],
)
def test_folders_without_labels_are_refused(
    tmp_path: Path, content: str | None, message: str
) -> None:
    scene = write_pairs(tmp_path, ["a"], [])
    if content is not None:
        (tmp_path / "labels" / "a.geojson").write_text(content)
    with pytest.raises(LayerError, match=message):
        read_training_scene(scene)
