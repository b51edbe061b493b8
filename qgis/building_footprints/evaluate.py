"""Compare a layer with the truth."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from qgis.core import (
    QgsProcessing,
    QgsProcessingContext,
    QgsProcessingFeedback,
    QgsProcessingOutputNumber,
    QgsProcessingParameterFileDestination,
    QgsProcessingParameterRasterLayer,
    QgsProcessingParameterVectorLayer,
)

from .algorithm import FootprintsAlgorithm, Values
from .running import run_command

FIGURES = {
    "precision": "Share of the predictions that match a truth",
    "recall": "Share of the truths that are matched",
    "f1": "Harmonic mean of both",
    "matched_iou": "Mean IoU of the matches",
}


class EvaluateAlgorithm(FootprintsAlgorithm):
    """``footprints evaluate``."""

    def name(self) -> str:
        """In scripts."""
        return "evaluate"

    def displayName(self) -> str:
        """In the toolbox."""
        return "Compare with the truth"

    def shortHelpString(self) -> str:
        """Beside the parameters."""
        return (
            "Compares a layer of buildings with the truth, building by building: precision, "
            "recall, F1 and the IoU of matches. The report, one HTML file, adds average precision, "
            "how far outlines are off, charts and a map, and with imagery the worst places."
        )

    def initAlgorithm(self, configuration: Values | None = None) -> None:
        """Say what it takes and gives."""
        polygons = [QgsProcessing.TypeVectorPolygon]
        self.add(QgsProcessingParameterVectorLayer("INPUT", "Buildings that were found", polygons))
        self.add(QgsProcessingParameterVectorLayer("TRUTH", "True buildings", polygons))
        self.add(
            QgsProcessingParameterVectorLayer(
                "AOI", "Area outside which nothing counts", polygons, optional=True
            )
        )
        self.add_number("IOU", "Least IoU of a match", low=0.01, high=1, default=0.5)
        self.add_number("CONFIDENCE", "Leave out buildings below this confidence", low=0, high=1)
        self.add(
            QgsProcessingParameterRasterLayer(
                "SCENE", "Imagery of which the report shows the worst places", optional=True
            )
        )
        self.add(
            QgsProcessingParameterFileDestination(
                "REPORT", "Report", "HTML files (*.html)", optional=True, createByDefault=False
            )
        )
        for name, text in FIGURES.items():
            self.addOutput(QgsProcessingOutputNumber(name.upper(), text))

    def processAlgorithm(
        self, parameters: Values, context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> Values:
        """Run the command."""
        arguments = [
            "evaluate",
            self.vector(parameters, context, "INPUT", feedback),
            self.vector(parameters, context, "TRUTH", feedback),
            "-v",
            *self.option("--iou", "IOU", parameters, context),
            *self.option("--confidence", "CONFIDENCE", parameters, context),
        ]
        if parameters.get("AOI"):
            arguments.append(f"--aoi={self.vector(parameters, context, 'AOI', feedback)}")
        report = self.parameterAsFileOutput(parameters, "REPORT", context)
        if report:
            arguments.append(f"--html={report}")
        if report and parameters.get("SCENE"):
            arguments.append(f"--scene={self.raster(parameters, context, 'SCENE')}")
        with tempfile.TemporaryDirectory() as folder:
            figures = Path(folder, "figures.json")
            run_command([*arguments, f"--json={figures}"], feedback)
            if feedback.isCanceled():
                return {}
            values = json.loads(figures.read_text(encoding="utf-8"))
        results = {name.upper(): values[name] for name in FIGURES}
        return {**results, "REPORT": report} if report else results
