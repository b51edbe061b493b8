"""What validates or is held out never trains, on any image that shows the same ground."""

from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_scenes import NORTH_UP, UTM, make_scene, paint, write_image, write_layer

from footprints.chip import Window
from footprints.data.labels import (
    LabelledImage,
    TrainingScene,
    read_training_scene,
    window_box,
)
from footprints.data.split import Block, Split, TrainingImage, choose_by_share, split_by_place
from footprints.errors import TrainingError
from footprints.vector.affine import apply_affine

WHOLE = Window(0, 0, 400, 400)


def houses(number: int, side: int = 400, seed: int = 0) -> list[shapely.Polygon]:
    corners = np.random.default_rng(seed).integers(0, side - 10, (number, 2)).tolist()
    return [shapely.box(x, y, x + 9, y + 7) for x, y in corners]


def large_image(folder: Path, **options: object) -> LabelledImage:
    """400 x 400 pixels of 0.5 m: 4 x 4 chips of 100."""
    scene = make_scene(folder, houses(60), height=400, width=400, **options)
    return read_training_scene(scene)[0]


def split(*scenes: list[LabelledImage], **options: object) -> Split:
    return split_by_place(scenes, **{"chip_size": 100, "gsd_m": None, **options})


def layer(*boxes: tuple[float, float, float, float], crs: object = UTM) -> gpd.GeoDataFrame:
    """Boxes in raster pixels of a north-up image as a layer on the ground."""
    placed = apply_affine(np.array([shapely.box(*b) for b in boxes]), NORTH_UP)
    return gpd.GeoDataFrame(geometry=list(placed), crs=UTM).to_crs(crs)


def images_in_a_row(folder: Path, lefts: list[int], side: int = 100) -> list[LabelledImage]:
    """Small images side by side, each with one house, left edges in pixels."""
    for left in lefts:
        place = NORTH_UP @ Affine.translation(left, 0)
        write_image(folder / "row" / f"{left:06d}.tif", paint([], side, side), transform=place)
    homes = [shapely.box(left + 20, 20, left + 40, 40) for left in lefts]
    labels = write_layer(folder / "row.gpkg", homes)
    return read_training_scene(TrainingScene(folder / "row", labels))


def test_blocks_of_a_large_raster_are_chosen_by_the_seed(tmp_path: Path) -> None:
    image = large_image(tmp_path)
    chosen = [
        {block.window for block in split([image], validation_share=0.25, seed=seed).validation}
        for seed in (1, 1, 2)
    ]
    assert chosen[0] == chosen[1] != chosen[2]
    assert all(window.width == window.height == 100 for window in chosen[0])


@given(
    counts=st.lists(st.integers(0, 40), min_size=2, max_size=12),
    share=st.floats(0.05, 0.5),
    seed=st.integers(0, 99),
)
@settings(max_examples=60)
def test_the_share_is_met_as_far_as_groups_allow(
    counts: list[int], share: float, seed: int
) -> None:
    groups = [[block_with(count)] for count in counts]
    chosen = choose_by_share(groups, share, seed)
    assert 1 <= len(chosen) < len(groups)
    sizes = [count + 1 for count in counts]
    got = sum(len(block.image.polygons) + 1 for block in chosen)
    # No further from the share than the largest group is large.
    assert abs(got - share * sum(sizes)) <= max(sizes)


def block_with(buildings: int) -> Block:
    polygons = np.array(houses(buildings, side=90), dtype=object)
    image = LabelledImage(
        path="made.tif",
        bands=None,
        nodata=None,
        count=3,
        dtype="uint8",
        width=100,
        height=100,
        gsd_m=(0.5, 0.5),
        crs=None,  # type: ignore[arg-type]
        transform=NORTH_UP,
        polygons=polygons,
        labels=np.zeros(buildings, dtype=np.int64),
        tree=shapely.STRtree(polygons),
        aoi=None,
    )
    return Block(image, Window(0, 0, 100, 100))


def test_no_share_validates_nothing(tmp_path: Path) -> None:
    result = split([large_image(tmp_path)], validation_share=0)
    assert result.validation == []
    assert result.training[0][0].is_free(WHOLE)


@pytest.mark.parametrize("share", [-0.1, 1.0, 7])
def test_a_share_out_of_range_is_an_error(tmp_path: Path, share: float) -> None:
    with pytest.raises(TrainingError, match=rf"share must be in \[0, 1\), got {share}"):
        split([large_image(tmp_path)], validation_share=share)


def test_too_little_ground_for_a_share_is_an_error(tmp_path: Path) -> None:
    image = read_training_scene(make_scene(tmp_path, houses(5, 90), height=100, width=100))[0]
    with pytest.raises(TrainingError, match=r"too little ground to validate on a share of 0\.1"):
        split([image])


def test_only_ground_with_complete_labels_validates(tmp_path: Path) -> None:
    corner = shapely.box(0, 0, 205, 205)
    image = large_image(tmp_path, aoi=corner)
    for seed in range(8):
        chosen = split([image], validation_share=0.3, seed=seed).validation
        assert chosen
        assert all(shapely.intersects(window_box(b.window), corner) for b in chosen)


def test_a_share_of_labels_in_one_place_is_an_error(tmp_path: Path) -> None:
    image = large_image(tmp_path, aoi=shapely.box(0, 0, 90, 90))
    with pytest.raises(TrainingError, match=r"complete labels \(aoi\) in two such places"):
        split([image], validation_share=0.1)
    assert split([image], validation_share=0.0).validation == []


def test_polygons_say_what_validates_to_the_pixel(tmp_path: Path) -> None:
    result = split([large_image(tmp_path)], validation=layer((50, 60, 170, 180)))
    assert [block.window for block in result.validation] == [Window(50, 60, 120, 120)]


def test_validation_polygons_in_another_crs_are_found(tmp_path: Path) -> None:
    result = split([large_image(tmp_path)], validation=layer((50, 60, 170, 180), crs=4326))
    (block,) = result.validation
    # A box in degrees is slightly rotated against the grid of the image.
    np.testing.assert_allclose(block.window, (50, 60, 120, 120), atol=3)


def test_validation_polygons_are_cut_at_the_raster(tmp_path: Path) -> None:
    result = split([large_image(tmp_path)], validation=layer((300, -50, 900, 120)))
    assert [block.window for block in result.validation] == [Window(300, 0, 100, 120)]


@pytest.fixture(scope="module")
def partly_free(tmp_path_factory: pytest.TempPathFactory) -> TrainingImage:
    result = split(
        [large_image(tmp_path_factory.mktemp("free"))],
        validation=layer((100, 100, 200, 200)),
        holdout=layer((250, 0, 300, 90)),
    )
    return result.training[0][0]


@given(x=st.floats(-50, 400), y=st.floats(-50, 400), side=st.floats(1, 200))
@settings(max_examples=80)
def test_free_windows_keep_their_distance_from_all_kept_ground(
    partly_free: TrainingImage, x: float, y: float, side: float
) -> None:
    window = Window(x, y, side, side)
    kept = [shapely.box(100, 100, 200, 200), shapely.box(250, 0, 300, 90)]
    distance = min(shapely.distance(window_box(window), box) for box in kept)
    # Corners of the buffer are square, so beside one it takes up to sqrt(2) times as much.
    if distance < 8 - 1e-6:
        assert not partly_free.is_free(window)
    if distance > 8 * 2**0.5 + 1e-6:
        assert partly_free.is_free(window)


def test_held_out_ground_never_validates(tmp_path: Path) -> None:
    holdout = layer((0, 0, 210, 400))
    for seed in range(5):
        result = split([large_image(tmp_path)], holdout=holdout, validation_share=0.3, seed=seed)
        assert result.validation
        assert all(block.window.x >= 300 for block in result.validation)


def test_validation_on_the_holdout_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="within 8 chip pixels of the holdout"):
        split(
            [large_image(tmp_path)],
            validation=layer((100, 100, 200, 200)),
            holdout=layer((203, 0, 400, 400)),
        )


def test_validation_beside_the_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="lie beside every image"):
        split([large_image(tmp_path)], validation=layer((1000, 1000, 1200, 1200)))


def test_another_image_of_the_same_ground_keeps_it_too(tmp_path: Path) -> None:
    image = large_image(tmp_path)
    # The same ground in degrees, from a coarser sensor.
    bounds = gpd.GeoSeries([image.footprint], crs=UTM).to_crs(4326).total_bounds
    step = (bounds[2] - bounds[0]) / 100, (bounds[3] - bounds[1]) / 100
    degrees = Affine(step[0], 0, bounds[0], 0, -step[1], bounds[3])
    other = read_training_scene(
        make_scene(
            tmp_path, houses(9, 90), name="other", height=100, width=100, transform=degrees,
            crs="EPSG:4326",
        )
    )[0]  # fmt: skip
    result = split([image], [other], validation=layer((200, 200, 300, 300)), chip_size=40)
    copy = result.training[1][0]
    assert not copy.is_free(Window(60, 60, 5, 5))
    assert copy.is_free(Window(5, 5, 20, 20))


def test_images_elsewhere_are_all_free(tmp_path: Path) -> None:
    far = make_scene(
        tmp_path, houses(9, 90), name="far", height=400, width=400,
        transform=Affine(0.25, 0, 497_500, 0, -0.25, 120_000), crs="EPSG:21781",
    )  # fmt: skip
    elsewhere = read_training_scene(far)[0]
    result = split(
        [large_image(tmp_path)], [elsewhere], validation=layer((0, 0, 100, 100)), chip_size=100
    )
    assert result.training[1][0].kept is None


def test_neighbouring_small_images_stay_on_one_side(tmp_path: Path) -> None:
    near, far = [0, 100, 200], [4000, 4100, 4200]
    images = images_in_a_row(tmp_path, near + far)
    result = split(images, validation_share=0.5, cell_m=500)
    lefts = sorted(int(Path(block.image.path).stem) for block in result.validation)
    assert lefts in (near, far)
    trained = sorted(int(Path(part.image.path).stem) for part in result.training[0])
    assert trained == sorted({*near, *far} - {*lefts})


def test_a_small_image_that_meets_a_validation_polygon_validates_whole(tmp_path: Path) -> None:
    images = images_in_a_row(tmp_path, [0, 100, 1000])
    result = split(images, validation=layer((150, 50, 190, 60)))
    (block,) = result.validation
    assert Path(block.image.path).stem == "000100"
    assert block.window == Window(0, 0, 100, 100)
    # The neighbour keeps the buffer free, the distant one has nothing to keep.
    neighbour, distant = result.training[0]
    assert not neighbour.is_free(Window(0, 0, 95, 95))
    assert neighbour.is_free(Window(0, 0, 91, 100))
    assert distant.kept is None


def test_an_image_inside_the_holdout_is_left_out(tmp_path: Path) -> None:
    images = images_in_a_row(tmp_path, [0, 1000, 2000])
    result = split(images, holdout=layer((-10, -10, 150, 150)), validation_share=0)
    assert [Path(part.image.path).stem for part in result.training[0]] == ["001000", "002000"]


def test_blocks_of_a_rotated_raster_are_kept_in_its_own_pixels(tmp_path: Path) -> None:
    rotated = Affine.translation(5e5, 4e6) @ Affine.rotation(30) @ Affine.scale(0.5, -0.5)
    image = large_image(tmp_path, transform=rotated)
    result = split([image], validation_share=0.2)
    training = result.training[0][0]
    for block in result.validation:
        assert not training.is_free(block.window)
        on_the_ground = shapely.Polygon(
            [rotated @ corner for corner in shapely.get_coordinates(window_box(block.window))]
        )
        assert block.outline.symmetric_difference(on_the_ground).area < 1e-3
