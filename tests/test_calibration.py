"""The way from scores to probabilities: what it does to order, to the wrong and to the few."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from footprints.calibration import (
    LEAST_OF_EACH,
    LEAST_SLOPE,
    Calibration,
    calibration_error,
    error_elsewhere,
    fit_calibration,
)

TRUE = Calibration(low=1.4, high=0.5, shift=-0.6)


def detections(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores, and hits of which `TRUE` gives the probability."""
    rng = np.random.default_rng(seed)
    scores = rng.uniform(0.05, 1, count).astype(np.float32)
    return scores, rng.random(count) < TRUE(scores)


def test_the_map_that_made_the_hits_is_found_again():
    fitted = fit_calibration(*detections(100_000))
    scores = np.linspace(0.05, 0.99, 50)
    assert np.abs(fitted(scores) - TRUE(scores)).max() < 0.015


def test_calibrated_confidence_is_the_share_of_hits_where_nothing_was_fitted():
    calibration = fit_calibration(*detections(4_000))
    scores, hits = detections(20_000, seed=1)
    before, after = (calibration_error(x, hits) for x in (scores, calibration(scores)))
    assert before > 0.1
    assert after < 0.02
    sure = np.abs(calibration(scores) - 0.8) < 0.02
    assert hits[sure].mean() == pytest.approx(0.8, abs=0.06)


def test_scores_that_are_probabilities_stay_what_they_are():
    scores = np.linspace(0.01, 0.99, 99, dtype=np.float32)
    np.testing.assert_allclose(Calibration(1.0, 1.0, 0.0)(scores), scores, atol=1e-6)
    chosen = np.random.default_rng(0).uniform(0, 1, 20_000)
    hits = np.random.default_rng(1).random(20_000) < chosen
    fitted = fit_calibration(chosen, hits)
    assert np.abs(fitted(scores) - scores).max() < 0.02


@given(
    st.floats(LEAST_SLOPE, 5),
    st.floats(LEAST_SLOPE, 5),
    st.floats(-5, 5),
    st.lists(st.floats(0, 1, width=32), min_size=2, max_size=30),
)
def test_no_detection_overtakes_another(low, high, shift, scores):
    ordered = np.sort(np.array(scores, dtype=np.float32))
    calibrated = Calibration(low, high, shift)(ordered)
    assert calibrated.dtype == np.float32
    assert ((calibrated >= 0) & (calibrated <= 1)).all()
    assert (np.diff(calibrated) >= 0).all()
    # One by one as together: a threshold is mapped alone.
    assert [float(Calibration(low, high, shift)(s)) for s in ordered] == calibrated.tolist()


def test_scores_that_mean_the_opposite_are_not_turned_round():
    scores, hits = detections(5_000)
    fitted = fit_calibration(1 - scores, hits)
    assert min(fitted.low, fitted.high) >= LEAST_SLOPE
    assert (np.diff(fitted(np.linspace(0, 1, 20))) > 0).all()


def test_hits_that_scores_tell_apart_perfectly_give_a_map_all_the_same():
    scores = np.linspace(0.05, 0.95, 100)
    fitted = fit_calibration(scores, scores > 0.6)
    assert fitted(np.array([0.3]))[0] < 0.1 < 0.9 < fitted(np.array([0.9]))[0]


@pytest.mark.parametrize("hits", [LEAST_OF_EACH - 1, 0, 60])
def test_too_few_of_either_kind_give_no_map(hits):
    few = np.arange(60) < hits
    assert fit_calibration(np.full(60, 0.5), few) is None
    assert error_elsewhere(np.full(60, 0.5), few, np.arange(60) % 2 == 0) is None


def test_the_error_elsewhere_is_that_of_each_half_under_the_others_map():
    scores, hits = detections(4_000)
    halves = np.arange(4_000) % 2 == 0
    expected = scores.copy()
    expected[halves] = fit_calibration(scores[~halves], hits[~halves])(scores[halves])
    expected[~halves] = fit_calibration(scores[halves], hits[halves])(scores[~halves])
    error = error_elsewhere(scores, hits, halves)
    assert error == pytest.approx(calibration_error(expected, hits))
    # Seen by what it was fitted on, every map looks better than it is.
    assert calibration_error(fit_calibration(scores, hits)(scores), hits) <= error


def test_the_error_is_by_ten_bins():
    scores = np.array([0.91, 0.93, 0.31, 0.39, 0.35, 0.35])
    hits = np.array([True, False, False, False, False, True])
    # Two near 0.92 of which a half is right, four near 0.35 of which a quarter is.
    assert calibration_error(scores, hits) == pytest.approx((2 * 0.42 + 4 * 0.1) / 6)
    assert calibration_error(np.array([]), np.array([], dtype=bool)) == 0


@pytest.mark.parametrize("wrong", [(0, 1, 0), (1, -1, 0), (1, 1, float("nan"))])
def test_a_map_that_does_not_ascend_is_refused(wrong):
    with pytest.raises(ValueError, match="must ascend"):
        Calibration(*wrong)
