"""A small town whose buildings are known: houses, a terrace, a courtyard, a large warehouse."""

from collections.abc import Sequence

from affine import Affine
from shapely import Polygon, box
from shapely.affinity import affine_transform, rotate

HOUSES = [rotate(box(20 + 45 * i, 12, 42 + 45 * i, 30), 8 * i) for i in range(4)]
TERRACE = [box(20 + 20 * i, 50, 40 + 20 * i, 78) for i in range(6)]
COURTYARD = box(170, 40, 250, 100).difference(box(190, 58, 230, 82))
WAREHOUSE = rotate(box(30, 110, 190, 250), 6)
TOWN = [*HOUSES, *TERRACE, COURTYARD, WAREHOUSE]
HEIGHT, WIDTH = 270, 280

NORTH_UP = Affine(0.3, 0, 350_000, 0, -0.3, 3_057_000)
UTM = "EPSG:32645"


def on_ground(buildings: Sequence[Polygon], transform: Affine = NORTH_UP) -> list[Polygon]:
    """Buildings in pixels -> in CRS units."""
    t = transform
    return [affine_transform(b, [t.a, t.b, t.d, t.e, t.c, t.f]) for b in buildings]
