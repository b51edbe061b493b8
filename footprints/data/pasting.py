"""Copy-paste: buildings of one chip put on another, where they hide what they cover.

Source: simple copy-paste, Ghiasi et al., arXiv 2012.07177. Outlines are cut and not masks, so that
the targets of what is half hidden are as exact as all others.
"""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import GeometryType

from footprints.data.labels import LEFT_OUT
from footprints.data.targets import Layout, Visible, share_inside
from footprints.vector.coverage import rasterize_coverage

MOST_PASTED = 8
"""Buildings that a chip is given: more of them would be a collage and not a town."""
_WHOLE_SHARE = 0.99
"""A building that is pasted was seen whole."""


def paste(host: Layout, donor: Layout, rng: np.random.Generator) -> Layout:
    """Put some of a donor's buildings on a chip, at the place and in the size that they have there.

    Args:
        host: A square chip.
        donor: One of the same size and bands.
        rng: Chooses how many, and which.

    Returns:
        The chip with them; as it was where the donor has none that fits.
    """
    chosen = _choose(host, donor, rng)
    if not len(chosen):
        return host
    parts, own, shares, labels = (column[chosen] for column in donor.visible)
    cover = shapely.union_all(parts)
    side = host.valid.shape[0]
    frame = np.array([[0.0, 0.0, side, side]])
    # Exact coverage of pixels: the edges of what is pasted are as soft as those of any roof.
    opaque = rasterize_coverage(np.array([cover]), frame, side)[0]
    pixels = host.pixels + opaque * (donor.pixels - host.pixels)
    left = _hide(host.visible, cover)
    visible = Visible(
        np.concatenate([left.parts, parts]),
        np.concatenate([left.own, own]),
        np.concatenate([left.shares, shares]),
        np.concatenate([left.labels, labels]),
    )
    origin = f"{host.origin}, with buildings of {donor.origin}"
    return Layout(pixels, host.valid, host.labelled, visible, origin)


def _choose(host: Layout, donor: Layout, rng: np.random.Generator) -> NDArray[np.intp]:
    """Rows of the donor's buildings that are pasted, those seen whole, on ground with data."""
    parts, _, shares, labels = donor.visible
    boxes = shapely.bounds(parts).reshape(-1, 4)
    fits = (shares >= _WHOLE_SHARE) & (labels != LEFT_OUT)
    fits &= share_inside(host.valid & donor.labelled, boxes) == 1
    fitting = np.flatnonzero(fits)
    count = min(int(rng.integers(1, MOST_PASTED + 1)), len(fitting))
    return np.sort(rng.permutation(fitting)[:count])


def _hide(visible: Visible, cover: shapely.Geometry) -> Visible:
    """What is still to be seen of buildings under a cover; those quite hidden are gone."""
    before = shapely.area(visible.parts)
    parts = shapely.difference(visible.parts, cover)
    kinds = shapely.get_type_id(parts)
    # Where only edges were in common a line can be left.
    plane = np.isin(kinds, (GeometryType.POLYGON, GeometryType.MULTIPOLYGON))
    area = shapely.area(parts)
    seen = plane & (area > 0)
    shares = visible.shares[seen] * area[seen] / before[seen]
    return Visible(parts[seen], visible.own[seen], shares, visible.labels[seen])
