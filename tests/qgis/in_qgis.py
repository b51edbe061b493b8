"""Runs in QGIS's own Python: the plugin out of its zip, each algorithm once, results as JSON.

Arguments: the zip, the footprints command, a small raster, a larger one, its true buildings, a
raster without georeference, and a folder for the outputs.
"""

import json
import os
import sys
import time
import zipfile
from pathlib import Path

from qgis.core import (
    QgsApplication,
    QgsFeatureRequest,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProject,
    QgsVectorLayer,
)

archive, command, small, large, truth, unplaced, folder = map(Path, sys.argv[1:])
sys.path[:0] = ["/usr/share/qgis/python/plugins", str(folder / "plugins")]
application = QgsApplication([], False)
application.initQgis()

import processing  # noqa: E402
import qgis.utils  # noqa: E402
from processing.core.Processing import Processing  # noqa: E402
from processing.core.ProcessingConfig import ProcessingConfig  # noqa: E402

Processing.initialize()
zipfile.ZipFile(archive).extractall(folder / "plugins")
qgis.utils.plugin_paths = [str(folder / "plugins")]
qgis.utils.updateAvailablePlugins()
said = {
    "loaded": qgis.utils.loadPlugin("building_footprints"),
    "started": qgis.utils.startProcessingPlugin("building_footprints"),
    "version": qgis.utils.pluginMetadata("building_footprints", "version"),
}
registry = QgsApplication.processingRegistry()
provider = registry.providerById("footprints")
said["algorithms"] = sorted(each.id() for each in provider.algorithms())
said["parameters"] = {
    each.name(): {p.name(): p.type() for p in each.parameterDefinitions()}
    for each in provider.algorithms()
}


class Feedback(QgsProcessingFeedback):
    """Remembers what it is told, and cancels at the first progress if asked to."""

    def __init__(self, *, cancels=False):
        super().__init__(False)
        self.seen, self.warnings = [], []
        self.cancelled_at = None
        self.progressChanged.connect(self.note)
        self.cancels = cancels

    def note(self, percent):
        self.seen.append(percent)
        if self.cancels and percent > 0 and not self.isCanceled():
            self.cancelled_at = time.monotonic()
            self.cancel()

    def pushWarning(self, warning):
        self.warnings.append(warning)


def run(name, feedback=None, **parameters):
    context = QgsProcessingContext()
    context.setProject(QgsProject.instance())
    feedback = feedback or Feedback()
    algorithm = registry.createAlgorithmById(f"footprints:{name}")
    fits, message = algorithm.checkParameterValues(parameters, context)
    if not fits:
        return {"error": message}
    try:
        results = processing.runAndLoadResults(algorithm, parameters, feedback, context)
    except QgsProcessingException as err:
        return {"error": str(err), "progress": feedback.seen}
    told = {"results": results, "progress": feedback.seen, "warnings": feedback.warnings}
    for layer in QgsProject.instance().mapLayers().values():
        if results.get("OUTPUT") == layer.source().split("|")[0]:
            told["features"] = layer.featureCount()
            told["renderer"] = layer.renderer().type()
            told["fields"] = layer.fields().names()
    return told


said["no command"] = run("finish", RUN=str(folder), OUTPUT=str(folder / "none.gpkg"))
ProcessingConfig.setSettingValue("FOOTPRINTS_COMMAND", str(command))
said["predict"] = run(
    "predict", INPUT=str(small), KEEP=str(folder / "run"), CHIP_SIZE=256, REGULARIZE=1,
    OUTPUT=str(folder / "town.gpkg"),
)  # fmt: skip
said["finish"] = run(
    "finish", RUN=str(folder / "run"), CONFIDENCE=0.7, OUTPUT="TEMPORARY_OUTPUT",
)  # fmt: skip
# A layer of the project that has unsaved content and lies in no file.
memory = QgsVectorLayer(str(folder / "town.gpkg"), "found", "ogr").materialize(QgsFeatureRequest())
QgsProject.instance().addMapLayer(memory)
said["regularize"] = run(
    "regularize", INPUT=memory.id(), METHOD=4, TOLERANCE=2.5, OUTPUT=str(folder / "round.shp"),
)  # fmt: skip
said["evaluate"] = run(
    "evaluate",
    INPUT=str(folder / "town.gpkg"),
    TRUTH=str(truth),
    REPORT=str(folder / "report.html"),
)
said["error"] = run("predict", INPUT=str(unplaced), OUTPUT=str(folder / "unplaced.gpkg"))
before = sorted(path.name for path in folder.iterdir())
feedback = Feedback(cancels=True)
said["cancel"] = run(
    "predict", feedback, INPUT=str(large), CHIP_SIZE=256, OUTPUT=str(folder / "large.gpkg")
)
said["cancel"]["seconds"] = time.monotonic() - feedback.cancelled_at
said["left"] = sorted({path.name for path in folder.iterdir()} - set(before))
qgis.utils.unloadPlugin("building_footprints")
said["unloaded"] = registry.providerById("footprints") is None
print(json.dumps(said, default=str), flush=True)
# Some versions crash when they end in the regular way.
os._exit(0)
