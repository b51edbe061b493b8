"""Geometries from one frame to another."""

from __future__ import annotations

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray


def apply_affine(geometries: NDArray[np.object_], transform: Affine) -> NDArray[np.object_]:
    """Move geometries by an affine: (n,) in, (n,) out."""
    moved: NDArray[np.object_] = shapely.transform(
        geometries, lambda xy: transform_points(xy, transform)
    )
    return moved


def transform_points(points: NDArray[np.float64], transform: Affine) -> NDArray[np.float64]:
    """Move points (..., 2) by an affine."""
    linear = np.array([[transform.a, transform.d], [transform.b, transform.e]])
    moved: NDArray[np.float64] = points @ linear + np.array([transform.c, transform.f])
    return moved
