"""The provider: the algorithms, and the setting that says where the command is."""

from __future__ import annotations

from pathlib import Path

from processing.core.ProcessingConfig import ProcessingConfig, Setting
from qgis.core import QgsProcessingProvider
from qgis.PyQt.QtGui import QIcon

from .evaluate import EvaluateAlgorithm
from .finish import FinishAlgorithm
from .predict import PredictAlgorithm
from .regularize import RegularizeAlgorithm
from .running import COMMAND


class FootprintsProvider(QgsProcessingProvider):
    """Algorithms that run the footprints command."""

    def id(self) -> str:
        """Prefix of the algorithms' names."""
        return "footprints"

    def name(self) -> str:
        """Name in the toolbox, and of the group of settings."""
        return "Footprints"

    def icon(self) -> QIcon:
        """Picture in the toolbox."""
        return QIcon(str(Path(__file__).with_name("icon.svg")))

    def load(self) -> bool:
        """Add the setting and the algorithms."""
        ProcessingConfig.settingIcons[self.name()] = self.icon()
        ProcessingConfig.addSetting(
            Setting(
                self.name(), COMMAND, "Path of the footprints command", "", valuetype=Setting.FILE
            )
        )
        ProcessingConfig.readSettings()
        self.refreshAlgorithms()
        return True

    def unload(self) -> None:
        """Take the setting away."""
        ProcessingConfig.removeSetting(COMMAND)

    def loadAlgorithms(self) -> None:
        """Add the algorithms."""
        for algorithm in (
            PredictAlgorithm,
            FinishAlgorithm,
            RegularizeAlgorithm,
            EvaluateAlgorithm,
        ):
            self.addAlgorithm(algorithm())

    def supportedOutputVectorLayerExtensions(self) -> list[str]:
        """What the command writes and QGIS opens; the first is the default, and comes styled."""
        return ["gpkg", "shp", "fgb", "geojson"]
