"""Building Footprints: the `footprints` command in QGIS's Processing toolbox."""


def classFactory(iface):
    """What QGIS calls to load the plugin; there is no window and no tool bar to add to."""
    from .plugin import FootprintsPlugin

    return FootprintsPlugin()
