"""Write small rasters in one call."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning

UTM = "EPSG:32645"
AT_BANEPA = Affine(0.3, 0, 350000, 0, -0.3, 3057000)

WriteScene = Callable[..., Path]


@pytest.fixture
def write_scene(tmp_path: Path) -> WriteScene:
    """Write (bands, height, width) pixels to a file and return its path."""

    def write(
        pixels: NDArray[Any],
        name: str = "scene.tif",
        *,
        mask: NDArray[np.bool_] | None = None,
        overviews: list[int] | None = None,
        **profile: Any,
    ) -> Path:
        count, height, width = pixels.shape
        profile = {
            "driver": "GTiff",
            "crs": UTM,
            "transform": AT_BANEPA,
            "dtype": pixels.dtype,
            **profile,
        }
        path = tmp_path / name
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            shape = {"count": count, "height": height, "width": width}
            with rasterio.open(path, "w", **shape, **profile) as dataset:
                dataset.write(pixels)
                if mask is not None:
                    dataset.write_mask(mask)
                if overviews:
                    dataset.build_overviews(overviews, rasterio.enums.Resampling.average)
        return path

    return write


@pytest.fixture
def noise() -> Callable[..., NDArray[Any]]:
    """Pixels without structure and without black, the same every time."""

    def make(*shape: int, dtype: str = "uint8", low: int = 40, high: int = 250) -> NDArray[Any]:
        return np.random.default_rng(0).integers(low, high, shape).astype(dtype)

    return make
