"""Give buildings straight walls."""

from __future__ import annotations

from qgis.core import (
    QgsProcessing,
    QgsProcessingContext,
    QgsProcessingFeedback,
    QgsProcessingParameterEnum,
    QgsProcessingParameterVectorLayer,
)

from .algorithm import METHODS, FootprintsAlgorithm, Values
from .running import run_command


class RegularizeAlgorithm(FootprintsAlgorithm):
    """``footprints regularize``."""

    def name(self) -> str:
        """In scripts."""
        return "regularize"

    def displayName(self) -> str:
        """In the toolbox."""
        return "Straighten walls"

    def shortHelpString(self) -> str:
        """Beside the parameters."""
        return (
            "Gives the buildings of any polygon layer straight walls, shared where they touch. "
            "Distances are metres in any CRS. Where no fit stays within the tolerance, the outline "
            "is left as it was."
        )

    def initAlgorithm(self, configuration: Values | None = None) -> None:
        """Say what it takes and gives."""
        self.add(
            QgsProcessingParameterVectorLayer(
                "INPUT", "Buildings as they are", [QgsProcessing.TypeVectorPolygon]
            )
        )
        self.add(QgsProcessingParameterEnum("METHOD", "Method", METHODS, defaultValue=0))
        self.add_metres("TOLERANCE", "Outlines may move this far", 1.0)
        self.add_metres("SIMPLIFY", "Drop vertices, outlines may move this far (default: none)")
        self.add_output()

    def processAlgorithm(
        self, parameters: Values, context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> Values:
        """Run the command."""
        output = self.output(parameters, context)
        arguments = [
            "regularize",
            self.vector(parameters, context, "INPUT", feedback),
            "-v",
            f"--output={output}",
            "--overwrite",
            f"--method={METHODS[self.parameterAsEnum(parameters, 'METHOD', context)]}",
            *self.option("--tolerance", "TOLERANCE", parameters, context),
            *self.option("--simplify", "SIMPLIFY", parameters, context),
        ]
        run_command(arguments, feedback)
        return {} if feedback.isCanceled() else {"OUTPUT": str(output)}
