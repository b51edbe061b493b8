"""From a raster to chips.

`open_scene` opens any raster that GDAL reads, `resample_scene` sees it at the ground resolution a
detector was trained at, `fit_scaling` brings its values into the range the detector knows, and
`read_chip` cuts a chip. Nothing here ever holds a whole raster.
"""

from footprints.raster.reader import SceneGrid, read_chip, resample_scene
from footprints.raster.scaling import fit_scaling, measure_value_range
from footprints.raster.source import Scene, open_scene

__all__ = [
    "Scene",
    "SceneGrid",
    "fit_scaling",
    "measure_value_range",
    "open_scene",
    "read_chip",
    "resample_scene",
]
