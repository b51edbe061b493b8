"""Make a layer from a kept run."""

from __future__ import annotations

from qgis.core import QgsProcessingContext, QgsProcessingFeedback, QgsProcessingParameterFile

from .algorithm import FootprintsAlgorithm, Values
from .running import run_command


class FinishAlgorithm(FootprintsAlgorithm):
    """``footprints finish``."""

    def name(self) -> str:
        """In scripts."""
        return "finish"

    def displayName(self) -> str:
        """In the toolbox."""
        return "Layer from a kept run"

    def shortHelpString(self) -> str:
        """Beside the parameters."""
        return (
            "Makes a layer from the folder that 'Find buildings' kept, with another confidence, "
            "least area or straight walls, in seconds."
        )

    def initAlgorithm(self, configuration: Values | None = None) -> None:
        """Say what it takes and gives."""
        self.add(
            QgsProcessingParameterFile(
                "RUN", "Folder of the run", behavior=QgsProcessingParameterFile.Folder
            )
        )
        self.add_layer_options()
        self.add_output()

    def processAlgorithm(
        self, parameters: Values, context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> Values:
        """Run the command."""
        output = self.output(parameters, context)
        arguments = [
            "finish",
            self.parameterAsString(parameters, "RUN", context),
            "-v",
            f"--output={output}",
            "--overwrite",
            *self.layer_options(parameters, context),
        ]
        run_command(arguments, feedback)
        return {} if feedback.isCanceled() else {"OUTPUT": str(output)}
