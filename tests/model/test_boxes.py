"""Box offsets, matching, sampling and the ground that labels cover."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from footprints.model.boxes import (
    clip_boxes,
    decode_boxes,
    encode_boxes,
    ignore_unlabelled,
    labelled_share,
    match_boxes,
    sample_matches,
)

WEIGHTS = (10.0, 10.0, 5.0, 5.0)
TRUTH = torch.tensor([[0.0, 0.0, 10.0, 10.0]])


@st.composite
def boxes(draw, low: float = -50.0, high: float = 500.0) -> torch.Tensor:
    """(1, 4), sides of 4 to 200 pixels."""
    x, y = draw(st.floats(low, high)), draw(st.floats(low, high))
    width, height = draw(st.floats(4, 200)), draw(st.floats(4, 200))
    return torch.tensor([[x, y, x + width, y + height]])


@given(box=boxes(), reference=boxes(), weights=st.sampled_from([WEIGHTS, (1.0, 1.0, 1.0, 1.0)]))
def test_decoding_gives_back_what_was_encoded(box, reference, weights):
    decoded = decode_boxes(encode_boxes(box, reference, weights), reference, weights)
    torch.testing.assert_close(decoded, box, atol=5e-3, rtol=1e-4)


def test_offsets_are_shift_and_growth_relative_to_the_reference():
    reference, box = torch.tensor([[0.0, 0.0, 10.0, 20.0]]), torch.tensor([[5.0, 0.0, 25.0, 20.0]])
    offsets = encode_boxes(box, reference, (1.0, 1.0, 1.0, 1.0))
    torch.testing.assert_close(offsets, torch.tensor([[1.0, 0.0, 0.6931472, 0.0]]))


def test_wild_offsets_decode_to_finite_boxes():
    decoded = decode_boxes(torch.full((1, 4), 1e4), TRUTH, WEIGHTS)
    assert torch.isfinite(decoded).all()
    assert decoded[0, 2] - decoded[0, 0] == pytest.approx(10 * 1000 / 16)


def test_clipped_boxes_end_at_the_image():
    wild = torch.tensor([[-5.0, -5.0, 50.0, 50.0], [30.0, 3.0, 40.0, 4.0]])
    assert clip_boxes(wild, 20, 30).tolist() == [[0, 0, 30, 20], [30, 3, 30, 4]]


@pytest.mark.parametrize(
    ("height", "state"),
    [
        pytest.param(7.0, 1, id="at the upper threshold: positive"),
        pytest.param(6.99, -1, id="just below it: ignored"),
        pytest.param(3.0, -1, id="at the lower threshold: ignored"),
        pytest.param(2.99, 0, id="just below that: background"),
    ],
)
def test_matching_follows_the_thresholds(height, state):
    box = torch.tensor([[0.0, 0.0, 10.0, height]])
    index, found = match_boxes(box, TRUTH, positive_iou=0.7, negative_iou=0.3, keep_best=False)
    assert (index.item(), found.item()) == (0, state)


def test_best_boxes_of_a_building_match_however_low_their_iou():
    candidates = torch.tensor(
        [[0.0, 0.0, 10.0, 1.0], [0.0, 0.0, 10.0, 2.0], [0.0, 8.0, 10.0, 10.0], [50, 50, 60, 60]]
    )
    _, without = match_boxes(candidates, TRUTH, positive_iou=0.7, negative_iou=0.3, keep_best=False)
    assert without.tolist() == [0, 0, 0, 0]
    _, state = match_boxes(candidates, TRUTH, positive_iou=0.7, negative_iou=0.3, keep_best=True)
    assert state.tolist() == [0, 1, 1, 0], "both of the best match, and no other"


def test_a_building_that_no_box_meets_makes_no_box_positive():
    far = torch.tensor([[100.0, 100.0, 110.0, 110.0], [200.0, 200.0, 210.0, 210.0]])
    _, state = match_boxes(far, TRUTH, positive_iou=0.7, negative_iou=0.3, keep_best=True)
    assert state.tolist() == [0, 0]


def test_each_box_is_given_the_building_it_covers_best():
    truth = torch.tensor([[0.0, 0.0, 10.0, 10.0], [5.0, 0.0, 15.0, 10.0]])
    candidates = torch.tensor([[4.0, 0.0, 14.0, 10.0], [1.0, 0.0, 11.0, 10.0]])
    index, state = match_boxes(
        candidates, truth, positive_iou=0.5, negative_iou=0.5, keep_best=False
    )
    assert index.tolist() == [1, 0]
    assert state.tolist() == [1, 1]


def test_without_buildings_every_box_is_background():
    index, state = match_boxes(
        TRUTH.repeat(3, 1), torch.empty(0, 4), positive_iou=0.7, negative_iou=0.3, keep_best=True
    )
    assert index.tolist() == state.tolist() == [0, 0, 0]


@given(state=hnp.arrays(np.int64, st.integers(0, 60), elements=st.integers(-1, 1)))
def test_samples_hold_at_most_their_share_of_positives_and_background_fills_up(state):
    positive, negative = sample_matches(torch.from_numpy(state), 16, 0.25)
    assert len(positive) == min((state == 1).sum(), 4)
    assert len(negative) == min((state == 0).sum(), 16 - len(positive))
    assert (state[positive] == 1).all()
    assert (state[negative] == 0).all()
    drawn = torch.cat((positive, negative))
    assert len(drawn.unique()) == len(drawn), "nothing is drawn twice"


def test_samples_differ_from_draw_to_draw():
    torch.manual_seed(0)
    state = torch.zeros(1000, dtype=torch.long)
    first, second = (sample_matches(state, 10, 0.5)[1] for _ in range(2))
    assert set(first.tolist()) != set(second.tolist())


@given(
    labelled=hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)),
    corner=st.tuples(st.floats(-3, 12), st.floats(-3, 12)),
    size=st.tuples(st.floats(0.1, 12), st.floats(0.1, 12)),
)
def test_labelled_share_is_the_mean_of_the_pixels_a_box_touches(labelled, corner, size):
    height, width = labelled.shape
    box = np.float32([*corner, corner[0] + size[0], corner[1] + size[1]])
    x0, y0 = np.floor(box[:2]).clip(0).astype(int)
    x1, y1 = np.ceil(box[2:]).clip(0, (width, height)).astype(int)
    share = labelled_share(torch.from_numpy(labelled), torch.from_numpy(box)[None]).item()
    if x0 < x1 and y0 < y1:
        assert share == pytest.approx(labelled[y0:y1, x0:x1].mean())
    else:
        assert 0 <= share <= 1, "a box beside the image has some share, not a division by zero"


def test_only_background_on_unlabelled_ground_is_ignored():
    labelled = torch.zeros(10, 20, dtype=torch.bool)
    labelled[:, 10:] = True
    left, right = [1.0, 1.0, 9.0, 9.0], [11.0, 1.0, 19.0, 9.0]
    candidates = torch.tensor([left, right, left, left])
    state = torch.tensor([0, 0, 1, -1])
    assert ignore_unlabelled(state, labelled, candidates).tolist() == [-1, 0, 1, -1]
    assert ignore_unlabelled(state, None, candidates).tolist() == [0, 0, 1, -1]
