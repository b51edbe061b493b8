"""The plugin: it adds one provider to Processing, and takes it away again."""

from __future__ import annotations

from qgis.core import QgsApplication

from .provider import FootprintsProvider


class FootprintsPlugin:
    """What QGIS holds of the plugin."""

    def __init__(self) -> None:
        self.provider = None

    def initProcessing(self) -> None:
        """Add the provider; QGIS calls this alone where it has no window (``qgis_process``)."""
        self.provider = FootprintsProvider()
        QgsApplication.processingRegistry().addProvider(self.provider)

    def initGui(self) -> None:
        """Add the provider in a QGIS with a window."""
        self.initProcessing()

    def unload(self) -> None:
        """Take the provider away."""
        QgsApplication.processingRegistry().removeProvider(self.provider)
