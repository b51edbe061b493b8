"""Chips in, instances out: scaling, grouping by chip, the cap, devices."""

import logging
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_network import tiny_config, tiny_network

from footprints.calibration import Calibration
from footprints.chip import Chip, InputSpec, Scaling, Window
from footprints.errors import BandError, ConfigError
from footprints.model.box_head import Detections
from footprints.model.checkpoint import WeightsInfo, save_weights
from footprints.model.detector import (
    COMPILE_FROM,
    NetworkDetector,
    load_detector,
    quantize_logits,
    scale_pixels,
    to_instances,
)
from footprints.model.mask_rcnn import Prediction
from footprints.model.masks import MaskGrids

CPU = torch.device("cpu")
SCALING = Scaling((127.0,) * 3, (64.0,) * 3)
SPEC = InputSpec(bands=3, gsd_m=0.3, scaling=SCALING, multiple=32)


def make_chip(seed: int = 0, *, bands: int = 3, dtype: str = "uint8", x: float = 0) -> Chip:
    pixels = np.random.default_rng(seed).integers(0, 256, (bands, 96, 96)).astype(dtype)
    valid = np.ones((96, 96), dtype=bool)
    window = Window(x, 64, 96, 96)
    return Chip(pixels, valid, SCALING, window, Affine.identity(), None, f"scene{seed}.tif")


def make_detector(**detection: object) -> NetworkDetector:
    config = tiny_config(detection={"max_per_chip": 500} | detection)
    return NetworkDetector(tiny_network(config), WeightsInfo("tiny", config, SPEC), CPU)


@pytest.fixture(scope="module")
def detector():
    return make_detector()


def test_pixels_are_scaled_band_by_band_and_image_by_image():
    pixels = torch.full((2, 2, 1, 3), 10, dtype=torch.uint8)
    scalings = [Scaling((0.0, 10.0), (10.0, 1.0)), Scaling((20.0, 8.0), (5.0, 4.0))]
    scaled = scale_pixels(pixels, torch.ones(2, 1, 3, dtype=torch.bool), scalings, CPU)
    assert scaled.dtype == torch.float32
    assert scaled[:, :, 0, 0].tolist() == [[1, 0], [-2, 0.5]]


def test_pixels_without_data_are_zero_whatever_they_hold():
    pixels = torch.tensor([[[[float("nan"), 5.0]]]])
    valid = torch.tensor([[[False, True]]])
    scaled = scale_pixels(pixels, valid, [Scaling((3.0,), (2.0,))], CPU)
    assert scaled.flatten().tolist() == [0, 1]


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
def test_pixel_types_do_not_matter_where_values_are_equal(detector, dtype):
    (expected,), (found,) = detector([make_chip()]), detector([make_chip(dtype=dtype)])
    assert len(found) > 0
    np.testing.assert_array_equal(found.scores, expected.scores)


def test_uint16_beyond_int16_is_not_wrapped():
    values = np.full((1, 3, 96, 96), 60_000, dtype="uint16")
    chip = replace(make_chip(), pixels=values[0], scaling=Scaling((60_000.0,) * 3, (1.0,) * 3))
    zeros = replace(
        make_chip(), pixels=np.zeros((3, 96, 96), "uint8"), scaling=Scaling((0.0,) * 3, (1.0,) * 3)
    )
    detector = make_detector()
    np.testing.assert_array_equal(detector([chip])[0].scores, detector([zeros])[0].scores)


@given(
    images=st.lists(st.integers(0, 3), max_size=12).map(sorted),
    sides=st.randoms(use_true_random=False),
)
@settings(max_examples=30)
def test_every_instance_is_in_one_group_of_its_chip_and_keeps_its_order(images, sides):
    count = len(images)
    chosen = [sides.choice((2, 4)) for _ in range(count)]
    numbers = torch.arange(count)
    boxes = numbers.float().view(-1, 1).expand(-1, 4)
    groups = []
    for side in (2, 4):
        members = numbers[torch.tensor(chosen, dtype=torch.long) == side]
        members = members[torch.randperm(len(members))]
        groups.append(
            MaskGrids(members, (members.float() / 16).view(-1, 1, 1).expand(-1, side, side))
        )
    detections = Detections(boxes, numbers / 100, numbers % 2, torch.tensor(images).long())
    keypoints = boxes.unsqueeze(1)[..., :3]
    chips = to_instances(Prediction(detections, boxes + 0.5, groups, keypoints), 4)
    assert [len(chip) for chip in chips] == [images.count(image) for image in range(4)]
    number = 0
    for chip in chips:
        places = {}
        for members, logits in chip.masks:
            assert len(members)
            places |= {
                int(m): (grid.shape[0], int(grid[0, 0]))
                for m, grid in zip(members, logits, strict=True)
            }
        assert sorted(places) == list(range(len(chip)))
        assert sum(len(group.members) for group in chip.masks) == len(chip)
        for i in range(len(chip)):
            assert places[i] == (chosen[number], number)
            assert chip.boxes[i, 0] == number
            assert chip.mask_boxes[i, 0] == number + 0.5
            assert chip.scores[i] == np.float32(number / 100)
            number += 1


def test_logits_keep_their_sign_and_are_clipped():
    logits = torch.tensor([-1000.0, -1.0, -0.04, 0.0, 0.04, 1.0, 1000.0])
    assert quantize_logits(logits).tolist() == [-127, -16, -1, 0, 1, 16, 127]
    assert quantize_logits(logits).dtype == np.int8


def test_detections_lie_in_their_chip(detector):
    for instances in detector([make_chip(0), make_chip(1)]):
        assert len(instances) > 0
        assert (instances.boxes >= 0).all()
        assert (instances.boxes <= 96).all()
        assert ((instances.scores > 0) & (instances.scores <= 1)).all()
        assert sum(len(group.members) for group in instances.masks) == len(instances)
        assert (np.diff(instances.scores) <= 0).all(), "most confident first"


def test_the_same_chips_give_the_same_instances(detector):
    chips = [make_chip(0), make_chip(1)]
    for first, again in zip(detector(chips), detector(chips), strict=True):
        for part in ("boxes", "scores", "labels", "mask_boxes"):
            np.testing.assert_array_equal(getattr(first, part), getattr(again, part))
        for group, same in zip(first.masks, again.masks, strict=True):
            np.testing.assert_array_equal(group.members, same.members)
            np.testing.assert_array_equal(group.logits, same.logits)


def test_reaching_the_cap_is_marked(detector):
    (capped,) = make_detector(max_per_chip=3)([make_chip()])
    assert len(capped) == 3
    assert capped.capped
    assert capped.take(np.array([0, 2])).capped
    (whole,) = detector([make_chip()])
    assert len(whole) > 3
    assert not whole.capped


def test_lanes_share_the_threads_and_see_what_one_sees(detector):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert detector.lanes == 2
        chips = [make_chip(seed) for seed in range(4)]
        with detector.open_lanes(2) as pool:
            threads = pool.submit(torch.get_num_threads).result()
            shown = [found for (found,) in pool.map(detector, [[chip] for chip in chips])]
        assert threads == 1
        assert torch.get_num_threads() == 2
        with ThreadPoolExecutor(1) as later:
            assert later.submit(torch.get_num_threads).result() == 2
    finally:
        torch.set_num_threads(before)
    for chip, found in zip(chips, shown, strict=True):
        (alone,) = detector([chip])
        np.testing.assert_allclose(found.boxes, alone.boxes, atol=1e-3)
        np.testing.assert_allclose(found.scores, alone.scores, atol=1e-5)


@pytest.mark.parametrize(("threads", "lanes"), [(1, 1), (3, 3), (4, 4), (8, 4), (16, 4), (64, 4)])
def test_lanes_for_many_cores_have_several_threads_each(detector, monkeypatch, threads, lanes):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert detector.lanes == lanes


def test_a_chip_with_other_bands_names_its_scene(detector):
    with pytest.raises(BandError, match=r"take 3 bands, scene4\.tif gives 1"):
        detector([make_chip(0), make_chip(4, bands=1)])


def test_what_is_no_chip_is_refused(detector):
    with pytest.raises(ConfigError, match=r"list of chips, got ndarray in it; fp\.chip_at cuts"):
        detector([np.zeros((3, 64, 64), np.uint8)])


def test_the_detector_says_what_its_weights_say(detector):
    assert (detector.name, detector.classes, detector.confidence) == ("tiny", ("building",), 0.5)
    assert detector.input_spec == SPEC


def test_calibration_changes_confidence_and_nothing_else():
    config = tiny_config(detection={"max_per_chip": 500})
    info = WeightsInfo("tiny", config, SPEC, confidence=0.3)
    plain = NetworkDetector(tiny_network(config), info, CPU)
    calibrated = NetworkDetector(
        tiny_network(config), replace(info, calibration=Calibration(1.5, 0.6, -0.4)), CPU
    )
    (raw,), (found,) = (detector([make_chip()]) for detector in (plain, calibrated))
    np.testing.assert_array_equal(found.scores, calibrated.info.calibration(raw.scores))
    np.testing.assert_array_equal(np.argsort(found.scores), np.argsort(raw.scores))
    np.testing.assert_array_equal(
        found.scores >= calibrated.confidence, raw.scores >= plain.confidence
    )
    np.testing.assert_array_equal(found.boxes, raw.boxes)
    # A run that was begun with other confidences is not gone on with.
    assert calibrated.digest != plain.digest


def test_weights_load_into_a_detector_that_finds_the_same(tmp_path):
    config = tiny_config(detection={"max_per_chip": 500})
    network = tiny_network(config)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.copy_(tensor.half())
    info = WeightsInfo("tiny", config, SPEC)
    save_weights(tmp_path / "tiny.safetensors", network, info)
    expected = NetworkDetector(network, info, CPU)([make_chip()])[0]
    found = load_detector(tmp_path / "tiny.safetensors", device="cpu", precision="float32")(
        [make_chip()]
    )[0]
    np.testing.assert_array_equal(found.boxes, expected.boxes)


def test_half_precision_finds_the_same_to_a_fraction_of_a_pixel():
    network = tiny_network(tiny_config(detection={"max_per_chip": 500}))
    info = WeightsInfo("tiny", network.config, SPEC)
    whole = NetworkDetector(network, info, CPU)([make_chip()])[0]
    half = NetworkDetector(network, info, CPU, torch.bfloat16)([make_chip()])[0]
    apart = np.abs(whole.boxes[:, None] - half.boxes).max(axis=2).min(axis=1)
    assert len(half) > 0
    assert not np.array_equal(half.scores, whole.scores)
    assert np.median(apart) < 0.3


def test_a_detector_says_what_it_is():
    shown = repr(load_detector(device="cpu", precision="float32"))
    assert shown.startswith("NetworkDetector(buildings-lite0: building; 3 bands, 0.27 m per pixel")
    assert shown.endswith("torch.float32 on cpu)")


@pytest.fixture
def compilations(monkeypatch):
    """Compile to what there was, and note the shapes of what goes through it."""
    shapes = []

    def compile_nothing(function, *, dynamic):
        assert not dynamic

        def compiled(images):
            shapes.append(tuple(images.shape))
            return function(images)

        return compiled

    monkeypatch.setattr(torch, "compile", compile_nothing)
    return shapes


def test_long_work_is_compiled_for_whole_batches(compilations):
    detector = make_detector()
    chips = [make_chip(seed) for seed in range(3)]
    height, width = chips[0].valid.shape
    expected = [(len(found), found.scores.sum()) for found in detector(chips[:2])]
    detector.expect(COMPILE_FROM["cpu"] - 1, (2, height, width))
    detector(chips[:2])
    assert not compilations
    detector.expect(COMPILE_FROM["cpu"], (2, height, width))
    shown = detector(chips[:2])
    detector(chips[2:])
    assert compilations == [(2, 3, height, width)]
    assert [(len(found), found.scores.sum()) for found in shown] == expected


@pytest.mark.parametrize(("compiles", "count"), [(True, 1), (False, 0)])
def test_compiling_can_be_asked_for_and_refused(tmp_path, compilations, compiles, count):
    path = tmp_path / "weights.safetensors"
    save_weights(path, tiny_network(), WeightsInfo("tiny", tiny_config(), SPEC))
    detector = load_detector(path, device="cpu", compiles=compiles)
    chip = make_chip()
    detector.expect(1 if compiles else 10**9, (1, *chip.valid.shape))
    detector([chip])
    # In another process it does the same.
    pickle.loads(pickle.dumps(detector))([chip])
    assert len(compilations) == 2 * count


def test_without_a_compiler_the_network_runs_as_it_is(monkeypatch, caplog):
    def no_compiler(*_):
        raise torch._dynamo.exc.BackendCompilerFailed(no_compiler, OSError("no g++ here"), None)

    monkeypatch.setattr(torch, "compile", lambda *_, **__: no_compiler)
    detector, plain = make_detector(), make_detector()
    chip = make_chip()
    detector.expect(10**6, (1, *chip.valid.shape))
    with caplog.at_level(logging.INFO):
        (found,) = detector([chip])
    assert "no g++ here" in caplog.text
    np.testing.assert_array_equal(found.boxes, plain([chip])[0].boxes)


@pytest.mark.full
def test_what_is_compiled_finds_the_same():
    detector, plain = make_detector(), make_detector()
    chips = [make_chip(seed) for seed in range(2)]
    detector.expect(10**6, (2, *chips[0].valid.shape))
    torch._dynamo.utils.counters.clear()
    for found, same in zip(detector(chips), plain(chips), strict=True):
        assert len(found) == len(same) > 0
        np.testing.assert_allclose(found.boxes, same.boxes, atol=0.01)
        np.testing.assert_allclose(found.scores, same.scores, atol=1e-3)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
