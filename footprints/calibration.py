"""Confidence as a probability: how often a building that a network is so sure of is one.

Networks are sure of themselves on a scale of their own. A map fitted on ground that did not train
the network leads from there to the share of detections that match a building at IoU 0.5. It
ascends, so that no detection overtakes another: suppression and seams decide as without it.

Source: beta calibration, Kull, Silva Filho and Flach, AISTATS 2017.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

BINS = 10
"""Of confidence, in the expected error."""
LEAST_OF_EACH = 20
"""Fewer hits, or fewer detections that are none, say too little to fit a map."""
LEAST_SLOPE = 0.05
"""Of the log-odds over either logarithm. The map would turn round below 0 and be level at it."""
_PRIOR = 0.1
"""Weight of the map that changes nothing: what a few detections cannot tell stays as it is."""
_NEAREST = 1e-7
"""Scores are no nearer to 0 and 1, where the logarithms end."""
_ROUNDS = 50
_SETTLED = 1e-6
_IDENTITY = np.array([1.0, 1.0, 0.0])

Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Calibration:
    """log-odds of a hit = ``low`` ln(score) - ``high`` ln(1 - score) + ``shift``.

    With 1, 1 and 0 a score stays what it is.
    """

    low: float
    """How far low scores spread, above 0."""
    high: float
    """How far high scores spread, above 0."""
    shift: float

    def __post_init__(self) -> None:
        if not (self.low > 0 and self.high > 0 and np.isfinite(self.shift)):
            raise ValueError(
                f"a calibration must ascend, got low={self.low}, high={self.high}, "
                f"shift={self.shift}"
            )

    def __call__(self, scores: ArrayLike) -> NDArray[np.float32]:
        """Probability of a hit for scores of any shape."""
        weights = np.array([self.low, self.high, self.shift])
        return _sigmoid(_logarithms(np.asarray(scores)) @ weights).astype(np.float32)


def fit_calibration(scores: Floats, hits: Bools) -> Calibration | None:
    """Fit the likeliest map, by Newton's method.

    Args:
        scores: (n,) scores of detections on ground that did not train the network.
        hits: (n,) which of them match a building.

    Returns:
        The map; None where there are too few detections of either kind.
    """
    if min(hits.sum(), (~hits).sum()) < LEAST_OF_EACH:
        return None
    columns, wanted = _logarithms(scores), hits.astype(np.float64)
    weights, free = _IDENTITY, np.ones(3, dtype=bool)
    while True:
        weights = _fit(columns, wanted, weights, free)
        # A slope the detections want below the least one stays there, and the rest is fitted anew.
        steep = weights >= (LEAST_SLOPE, LEAST_SLOPE, -np.inf)
        if steep.all():
            low, high, shift = np.round(weights, 4).tolist()
            return Calibration(low, high, shift)
        weights, free = np.where(steep, weights, LEAST_SLOPE), free & steep


def _fit(
    columns: NDArray[np.float64],
    wanted: NDArray[np.float64],
    weights: NDArray[np.float64],
    free: Bools,
) -> NDArray[np.float64]:
    """The weights (3,) with those that are free at their likeliest."""

    def loss(weights: NDArray[np.float64]) -> float:
        odds = columns @ weights
        strain = _PRIOR * ((weights - _IDENTITY) ** 2).sum() / 2
        return float((np.logaddexp(0, odds) - wanted * odds).sum() + strain)

    some = columns[:, free]
    for _ in range(_ROUNDS):
        chance = _sigmoid(columns @ weights)
        slope = some.T @ (wanted - chance) - _PRIOR * (weights - _IDENTITY)[free]
        bend = (some.T * (chance * (1 - chance))) @ some + _PRIOR * np.eye(int(free.sum()))
        step = np.zeros(3)
        step[free] = np.linalg.solve(bend, slope)
        # Newton's step can go too far where the loss is flat.
        while loss(weights + step) > loss(weights) and np.abs(step).max() > _SETTLED:
            step /= 2
        weights = weights + step
        if np.abs(step).max() <= _SETTLED:
            break
    return weights


def calibration_error(scores: Floats, hits: Bools) -> float:
    """Expected difference of confidence and share of hits, in ten bins (arXiv 1706.04599).

    Args:
        scores: (n,) confidences.
        hits: (n,) which detections match a building.

    Returns:
        From 0 to 1; 0 without detections.
    """
    number = np.clip((scores * BINS).astype(np.intp), 0, BINS - 1)
    apart = np.bincount(number, scores, BINS) - np.bincount(number, hits, BINS)
    return float(np.abs(apart).sum() / max(len(scores), 1))


def error_elsewhere(scores: Floats, hits: Bools, halves: Bools) -> float | None:
    """Calibration error of each half under the map that the other half gives.

    Args:
        scores: (n,) scores as the network gives them.
        hits: (n,) which detections match a building.
        halves: (n,) the half of each; what stands near each other belongs together.

    Returns:
        From 0 to 1; None where a half is too small to fit a map.
    """
    calibrated = np.zeros(len(scores), dtype=np.float32)
    for half in (halves, ~halves):
        calibration = fit_calibration(scores[~half], hits[~half])
        if calibration is None:
            return None
        calibrated[half] = calibration(scores[half])
    return calibration_error(calibrated, hits)


def _logarithms(scores: Floats) -> NDArray[np.float64]:
    """(..., 3) what the weights multiply."""
    inside = np.clip(scores.astype(np.float64), _NEAREST, 1 - _NEAREST)
    return np.stack([np.log(inside), -np.log1p(-inside), np.ones_like(inside)], axis=-1)


def _sigmoid(odds: NDArray[np.float64]) -> NDArray[np.float64]:
    # As a tangent, which does not overflow.
    chance: NDArray[np.float64] = (1 + np.tanh(odds / 2)) / 2
    return chance
