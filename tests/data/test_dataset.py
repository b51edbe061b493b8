"""Chips are reproducible, show nothing they must not, and carry targets that fit their pixels."""

import multiprocessing
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely
import torch
from affine import Affine
from labelled_scenes import GROUND, NORTH_UP, ROOF, UTM, make_scene, paint, write_image, write_layer
from torch.utils.data import DataLoader

from footprints.data.augment import Augmentation
from footprints.data.dataset import (
    EpochSampler,
    TrainingChips,
    TrainingSource,
    ValidationChips,
    collate,
)
from footprints.data.labels import LabelledImage, TrainingScene, read_training_scene
from footprints.data.split import Split, TrainingImage, split_by_place
from footprints.data.targets import MASK_SIDE, Sample
from footprints.errors import TrainingError
from footprints.vector.affine import apply_affine

PLAIN = Augmentation().with_colour(0)
"""Scale and turns, but colours as they are."""


def houses(number: int, side: int, seed: int = 0) -> list[shapely.Polygon]:
    """Houses that do not touch, on a shuffled grid."""
    rng = np.random.default_rng(seed)
    cells = [(x, y) for x in range(10, side - 30, 40) for y in range(10, side - 30, 40)]
    corners = [cells[i] for i in rng.permutation(len(cells))[:number]]
    return [shapely.box(x, y, x + 24, y + 16) for x, y in corners]


def whole(*images: LabelledImage, weight: float = 1.0) -> TrainingSource:
    return TrainingSource([TrainingImage(image, None) for image in images], weight)


def chips(*sources: TrainingSource, **options: object) -> TrainingChips:
    defaults = {"chip_size": 64, "gsd_m": 0.5, "length": 20, "augmentation": PLAIN}
    return TrainingChips(sources, **{**defaults, **options})


def same(first: Sample, second: Sample) -> bool:
    return all(
        np.array_equal(getattr(first, name), getattr(second, name)) for name in Sample.__slots__
    )


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> LabelledImage:
    folder = tmp_path_factory.mktemp("large")
    return read_training_scene(make_scene(folder, houses(40, 400), height=400, width=400))[0]


@pytest.fixture(scope="module")
def small_images(tmp_path_factory: pytest.TempPathFactory) -> list[LabelledImage]:
    """Five images of 40 pixels, far apart, each all of one grey and with one house."""
    folder = tmp_path_factory.mktemp("small")
    homes = []
    for number in range(5):
        place = NORTH_UP @ Affine.translation(5000 * number, 0)
        write_image(
            folder / "images" / f"{number}.tif",
            np.full((3, 40, 40), 40 * (number + 1), dtype=np.uint8),
            transform=place,
        )
        homes.append(shapely.box(5000 * number + 10, 10, 5000 * number + 30, 25))
    labels = write_layer(folder / "labels.gpkg", homes)
    return read_training_scene(TrainingScene(folder / "images", labels))


def roofs(sample: Sample) -> np.ndarray:
    """(S, S) True where the centre of a pixel is on a target."""
    shown = np.zeros(sample.valid.shape, dtype=bool)
    for mask, (x_min, y_min, x_max, y_max) in zip(sample.masks, sample.mask_boxes, strict=True):
        y, x = np.indices(shown.shape) + 0.5
        column = np.floor((x - x_min) / (x_max - x_min) * MASK_SIDE).astype(int)
        row = np.floor((y - y_min) / (y_max - y_min) * MASK_SIDE).astype(int)
        inside = (row >= 0) & (row < MASK_SIDE) & (column >= 0) & (column < MASK_SIDE)
        shown[inside] |= mask[row[inside], column[inside]] > 127
    return shown


@pytest.mark.parametrize(
    ("transform", "crs"),
    [
        pytest.param(NORTH_UP, UTM, id="north up in metres"),
        pytest.param(Affine(0.3, 0, 5e5, 0, 0.3, 4e6), UTM, id="south up, finer"),
        pytest.param(
            Affine.translation(5e5, 4e6) @ Affine.rotation(25) @ Affine.scale(0.4, -0.4),
            UTM,
            id="rotated",
        ),
        pytest.param(Affine(5e-6, 0, 15, 0, -5e-6, 45), "EPSG:4326", id="in degrees, oblong"),
    ],
)
def test_targets_lie_on_their_buildings_after_augmentation(
    tmp_path: Path, transform: Affine, crs: str
) -> None:
    scene = make_scene(
        tmp_path, houses(40, 400), height=400, width=400, transform=transform, crs=crs
    )
    data = chips(whole(*read_training_scene(scene)), chip_size=96)
    found = 0
    for index in range(12):
        sample = data[index]
        painted = sample.pixels[0] > (ROOF + GROUND) / 2
        differing = (painted != roofs(sample)) & sample.labelled
        outline = sum(2 * (b[2] - b[0] + b[3] - b[1]) for b in sample.boxes)
        assert differing.sum() <= 0.3 * outline
        found += len(sample.boxes)
    assert found > 12


def test_a_chip_depends_on_seed_epoch_and_index_alone(image: LabelledImage) -> None:
    data = chips(whole(image), augmentation=Augmentation())
    third = data[3]
    assert data[8].pixels.shape == (3, 64, 64)
    assert same(third, data[3])
    assert same(third, pickle.loads(pickle.dumps(data))[3])
    assert not same(third, data[3 + len(data)])
    assert not same(third, chips(whole(image), augmentation=Augmentation(), seed=1)[3])


def test_a_chip_is_the_same_in_any_process(image: LabelledImage) -> None:
    data = chips(whole(image), length=6, augmentation=Augmentation(tilted=1.0, pasted=0.5))
    here = [data[index] for index in range(6)]
    loader = DataLoader(
        data,
        batch_size=None,
        num_workers=2,
        multiprocessing_context=multiprocessing.get_context("forkserver"),
    )
    for own, other in zip(here, loader, strict=True):
        assert same(own, other)


def test_a_resumed_epoch_shows_the_same_chips(image: LabelledImage) -> None:
    data = chips(whole(image), length=4)
    sampler = EpochSampler(data)
    sampler.set_epoch(2)
    loader = DataLoader(data, batch_size=2, sampler=sampler, collate_fn=collate)
    first, second = list(loader), list(loader)
    assert list(sampler) == [8, 9, 10, 11]
    assert len(sampler) == 4
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.pixels, b.pixels)
    sampler.set_epoch(3)
    assert not torch.equal(next(iter(loader)).pixels, first[0].pixels)


def split_marked(folder: Path, **options: object) -> tuple[Split, LabelledImage]:
    """A raster that is 200 where it validates, 250 where it is held out, and 50 elsewhere."""
    validation, holdout = (96, 96, 224, 224), (300, 0, 400, 90)
    pixels = np.full((1, 400, 400), GROUND, dtype=np.uint8)
    pixels[:, 96:224, 96:224] = 200
    pixels[:, :90, 300:] = 250
    path = write_image(folder / "marked.tif", pixels)
    labels = write_layer(folder / "marked.gpkg", houses(60, 400))
    (image,) = read_training_scene(TrainingScene(path, labels))
    kept = [areas(folder, box) for box in (validation, holdout)]
    split = split_by_place(
        [[image]], chip_size=64, gsd_m=0.5, validation=kept[0], holdout=kept[1], **options
    )
    return split, image


def areas(folder: Path, box: tuple[float, float, float, float]):
    import geopandas as gpd

    placed = apply_affine(np.array([shapely.box(*box)]), NORTH_UP)
    return gpd.GeoDataFrame(geometry=list(placed), crs=UTM)


def test_training_never_reads_a_pixel_that_is_kept_from_it(tmp_path: Path) -> None:
    split, _ = split_marked(tmp_path)
    data = chips(TrainingSource(split.training[0]), length=150)
    seen = {value for index in range(150) for value in np.unique(data[index].pixels.round(2))}
    assert seen <= {0.0, GROUND}


def test_validation_shows_its_blocks_whole_and_nothing_else(tmp_path: Path) -> None:
    split, _ = split_marked(tmp_path)
    data = ValidationChips(split.validation, chip_size=64, gsd_m=None)
    assert len(data) == 4
    for index in range(4):
        assert (data[index].pixels == 200).all()
    covered = np.zeros((400, 400), dtype=int)
    for _, window, *_ in data.cuts:
        x, y, width, height = (int(value) for value in window)
        covered[y : y + height, x : x + width] += 1
    assert (covered[96:224, 96:224] == 1).all()
    assert covered.sum() == 128 * 128


@pytest.mark.parametrize("gsd_m", [0.35, 0.5, 0.93, None])
def test_validation_stays_inside_its_blocks_at_any_resolution(
    tmp_path: Path, gsd_m: float | None
) -> None:
    split, _ = split_marked(tmp_path)
    data = ValidationChips(split.validation, chip_size=64, gsd_m=gsd_m)
    assert len(data) >= 1
    for _, window, height, width, *_ in data.cuts:
        assert window.x >= 96
        assert window.y >= 96
        assert window.x + window.width <= 224 + 1e-6
        assert window.y + window.height <= 224 + 1e-6
        assert max(height, width) <= 64


def test_validation_chips_of_small_blocks_are_filled_up_to_a_multiple(
    small_images: list[LabelledImage],
) -> None:
    split = split_by_place([small_images], chip_size=64, gsd_m=0.5, validation_share=0.4, cell_m=50)
    data = ValidationChips(split.validation, chip_size=96, gsd_m=0.5)
    sample = data[0]
    assert sample.pixels.shape == (3, 64, 64)
    assert sample.valid.sum() == 40 * 40
    np.testing.assert_array_equal(sample.valid, sample.labelled)
    assert len(sample.boxes) == 1


def test_validation_skips_ground_without_complete_labels(tmp_path: Path) -> None:
    scene = make_scene(
        tmp_path, houses(40, 400), height=400, width=400, aoi=shapely.box(0, 0, 190, 400)
    )
    (image,) = read_training_scene(scene)
    split = split_by_place(
        [[image]], chip_size=64, gsd_m=0.5, validation=areas(tmp_path, (0, 0, 384, 128))
    )
    data = ValidationChips(split.validation, chip_size=64, gsd_m=0.5)
    assert len(data) == 6
    assert all(data[index].labelled.any() for index in range(6))


def test_training_stays_where_labels_are_complete(tmp_path: Path) -> None:
    scene = make_scene(
        tmp_path, houses(40, 400), height=400, width=400, aoi=shapely.box(0, 0, 100, 100)
    )
    data = chips(whole(*read_training_scene(scene)))
    assert all(data[index].labelled.mean() > 0.15 for index in range(20))


def test_small_images_share_a_chip_and_fill_it(small_images: list[LabelledImage]) -> None:
    still = Augmentation(scale=(1, 1), tilted=0).with_colour(0)
    data = chips(whole(*small_images), augmentation=still)
    mixed = 0
    for index in range(10):
        sample = data[index]
        assert sample.valid.all()
        quarters = [sample.pixels[:, y : y + 32, x : x + 32] for y in (0, 32) for x in (0, 32)]
        assert all(len(np.unique(quarter)) == 1 for quarter in quarters)
        assert len(sample.boxes) + (~sample.labelled).any() >= 1
        mixed += len(np.unique(sample.pixels)) > 1
    assert mixed >= 5


@pytest.mark.parametrize(
    ("empty_share", "least", "most"),
    [
        pytest.param(0.0, 0.9, 1.0, id="a building on nearly every chip"),
        pytest.param(1.0, 0.0, 0.2, id="buildings as they come"),
    ],
)
def test_the_share_of_empty_chips_is_a_choice(
    tmp_path: Path, empty_share: float, least: float, most: float
) -> None:
    farm = shapely.box(300, 310, 330, 325)
    (image,) = read_training_scene(make_scene(tmp_path, [farm], height=600, width=600))
    data = chips(whole(image), empty_share=empty_share, length=60)
    built = np.mean([(data[index].pixels == ROOF).any() for index in range(60)])
    assert least <= built <= most


def test_weights_share_out_the_chips(tmp_path: Path) -> None:
    sources = []
    for name, value, weight in (("a", 100, 3.0), ("b", 200, 1.0)):
        path = write_image(tmp_path / f"{name}.tif", np.full((1, 200, 200), value, dtype=np.uint8))
        labels = write_layer(tmp_path / f"{name}.gpkg", houses(9, 200))
        sources.append(whole(*read_training_scene(TrainingScene(path, labels)), weight=weight))
    data = chips(*sources, length=200, augmentation=Augmentation(scale=(1, 1)).with_colour(0))
    bright = np.mean([data[index].pixels.max() > 150 for index in range(200)])
    assert 0.15 < bright < 0.35


def test_colours_change_in_the_range_of_the_imagery(tmp_path: Path) -> None:
    pixels = np.full((4, 200, 200), 900, dtype=np.uint16)
    pixels[:, ::2] = 300
    path = write_image(tmp_path / "deep.tif", pixels)
    labels = write_layer(tmp_path / "deep.gpkg", houses(9, 200))
    (image,) = read_training_scene(TrainingScene(path, labels))
    data = chips(
        whole(image), augmentation=Augmentation(), value_range=((200.0, 1000.0),), length=30
    )
    means = [data[index].pixels.mean() for index in range(30)]
    assert 20 < np.std(means) < 200
    assert all(300 < mean < 900 for mean in means)


def test_fine_imagery_is_thinned_out_or_averaged(tmp_path: Path) -> None:
    row, column = np.indices((400, 400))
    checks = np.where((row + column) % 2, 100, 200).astype(np.uint8)
    path = write_image(tmp_path / "fine.tif", np.broadcast_to(checks, (3, 400, 400)))
    labels = write_layer(tmp_path / "fine.gpkg", houses(40, 400))
    source = whole(*read_training_scene(TrainingScene(path, labels)))
    still = replace(PLAIN, scale=(1.0, 1.0), tilted=0)
    averaged, thinned = (
        chips(source, gsd_m=1.0, augmentation=replace(still, thinned=share)) for share in (0, 1)
    )
    same_resolution = chips(source, gsd_m=0.5, augmentation=replace(still, thinned=1))
    for index in range(5):
        np.testing.assert_allclose(averaged[index].pixels, 150, atol=12)
        assert np.abs(thinned[index].pixels - 150).mean() > 25
        np.testing.assert_array_equal(thinned[index].masks, averaged[index].masks)
        np.testing.assert_array_equal(thinned[index].boxes, averaged[index].boxes)
        assert same_resolution[index].pixels.shape == thinned[index].pixels.shape


def test_images_of_different_band_counts_are_refused(tmp_path: Path) -> None:
    sources = [
        whole(*read_training_scene(make_scene(tmp_path, houses(4, 200), name=f"s{n}", bands=n)))
        for n in (3, 4)
    ]
    with pytest.raises(TrainingError, match=r"bands: 3 \(.*s3\.tif\), 4 \(.*s4\.tif\)"):
        chips(*sources)


def test_no_ground_at_all_is_an_error() -> None:
    with pytest.raises(TrainingError, match="all ground is held out"):
        chips(TrainingSource([]))


def test_no_room_beside_the_held_out_ground_is_an_error(image: LabelledImage) -> None:
    stripes = shapely.union_all([shapely.box(x, 0, x + 10, 400) for x in range(0, 400, 30)])
    data = chips(TrainingSource([TrainingImage(image, stripes)]))
    with pytest.raises(TrainingError, match=r"no room for training chips of 64 px in .*scene\.tif"):
        data[0]


def test_a_batch_stacks_images_and_keeps_instances_apart(image: LabelledImage) -> None:
    data = chips(whole(image))
    samples = [data[0], data[1], data[2]]
    batch = collate(samples).to("cpu")
    assert len(batch) == 3
    assert batch.pixels.shape == (3, 3, 64, 64)
    assert batch.pixels.dtype == torch.float32
    assert batch.valid.dtype == batch.labelled.dtype == torch.bool
    for sample, boxes, labels, masks, mask_boxes in zip(
        samples, batch.boxes, batch.labels, batch.masks, batch.mask_boxes, strict=True
    ):
        np.testing.assert_array_equal(boxes, sample.boxes)
        np.testing.assert_array_equal(labels, sample.labels)
        np.testing.assert_array_equal(masks, sample.masks)
        np.testing.assert_array_equal(mask_boxes, sample.mask_boxes)


def test_smaller_samples_are_padded_with_unlabelled_ground(image: LabelledImage) -> None:
    large, small = chips(whole(image))[0], chips(whole(image), chip_size=32)[0]
    batch = collate([small, large])
    assert batch.pixels.shape == (2, 3, 64, 64)
    np.testing.assert_array_equal(batch.pixels[0, :, :32, :32], small.pixels)
    assert not batch.pixels[0, :, 32:].any()
    assert not batch.valid[0, :, 32:].any()
    assert not batch.labelled[0, 32:].any()
    np.testing.assert_array_equal(batch.labelled[1], large.labelled)


def test_more_images_than_may_stay_open_are_read_all_the_same(
    small_images: list[LabelledImage],
) -> None:
    data, thrifty = chips(whole(*small_images)), chips(whole(*small_images))
    thrifty._read._keep_open = 1
    assert all(same(data[index], thrifty[index]) for index in range(5))
    assert len(thrifty._read._open) == 1


def test_nodata_is_neither_data_nor_labelled(tmp_path: Path) -> None:
    pixels = paint([], 200, 200)
    pixels[:, :, 100:] = 0
    path = write_image(tmp_path / "half.tif", pixels, nodata=0)
    labels = write_layer(tmp_path / "half.gpkg", houses(16, 200))
    (image,) = read_training_scene(TrainingScene(path, labels))
    data = chips(whole(image), augmentation=Augmentation(), length=30)
    shares = []
    for index in range(30):
        sample = data[index]
        assert not (sample.labelled & ~sample.valid).any()
        assert not sample.pixels[:, ~sample.valid].any()
        shares.append(sample.valid.mean())
    assert min(shares) < 1


@pytest.mark.parametrize(
    ("images", "labels", "column"),
    [
        ("banepa/south.tif", "banepa/south_buildings.gpkg", None),
        ("dhaka/images", "dhaka/buildings.gpkg", "image"),
        ("geneva/images", "geneva/roofs.gpkg", "image"),
    ],
    ids=["banepa", "dhaka", "geneva"],
)
def test_real_scenes_give_chips_full_of_buildings(
    real_data: Path, images: str, labels: str, column: str | None
) -> None:
    scene = TrainingScene(real_data / images, real_data / labels, image_column=column)
    split = split_by_place(
        [read_training_scene(scene)], chip_size=384, gsd_m=0.3, validation_share=0.15
    )
    data = chips(
        TrainingSource(split.training[0]), chip_size=384, gsd_m=0.3, augmentation=Augmentation()
    )
    samples = [data[index] for index in range(4)]
    assert all(sample.pixels.shape == (3, 384, 384) for sample in samples)
    assert all(sample.valid.mean() > 0.4 for sample in samples)
    assert sum(len(sample.boxes) for sample in samples) > 10
    assert len(ValidationChips(split.validation, chip_size=384, gsd_m=0.3)) > 0
