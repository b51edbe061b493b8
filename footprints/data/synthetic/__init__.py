"""Aerial scenes of a made-up town, with the true outline of every building beside them.

For samples, tests and benchmarks: any size, resolution, pixel type, band count and reference
system. A scene is laid out, painted and written block by block, so only the disk bounds its size.
The walls go: `scene` writes files of what `paint` sees of a `town`, whose `blocks` are filled with
`roofs`.

    python -m footprints.data.synthetic town.tif --width 1400 --height 1100
"""

from footprints.data.synthetic.scene import Scene, generate_scene

__all__ = ["Scene", "generate_scene"]
