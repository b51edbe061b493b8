"""Find the buildings of a raster."""

from __future__ import annotations

from pathlib import Path

from qgis.core import (
    QgsProcessingContext,
    QgsProcessingFeedback,
    QgsProcessingParameterBand,
    QgsProcessingParameterBoolean,
    QgsProcessingParameterEnum,
    QgsProcessingParameterFile,
    QgsProcessingParameterFolderDestination,
    QgsProcessingParameterRasterLayer,
    QgsProcessingParameterString,
)

from .algorithm import FootprintsAlgorithm, Values
from .running import run_command

VIEWS = ("flips", "all")


class PredictAlgorithm(FootprintsAlgorithm):
    """``footprints predict``."""

    def name(self) -> str:
        """In scripts."""
        return "predict"

    def displayName(self) -> str:
        """In the toolbox."""
        return "Find buildings"

    def shortHelpString(self) -> str:
        """Beside the parameters."""
        return (
            "Finds the buildings of a raster and writes them as polygons, whole across the chips "
            "that the network sees. The GeoPackage opens as outlines coloured by confidence.\n\n"
            "A folder for all that is found lets 'Layer from a kept run' try other thresholds in "
            "seconds."
        )

    def initAlgorithm(self, configuration: Values | None = None) -> None:
        """Say what it takes and gives."""
        self.add(QgsProcessingParameterRasterLayer("INPUT", "Imagery"))
        self.add(
            QgsProcessingParameterFile(
                "WEIGHTS", "Weights (default: those that ship)", extension="safetensors",
                optional=True,
            )
        )  # fmt: skip
        self.add_layer_options()
        self.add(
            QgsProcessingParameterBand(
                "BANDS", "Bands, as the weights want them (default: the first ones)",
                parentLayerParameterName="INPUT", optional=True, allowMultiple=True,
            ),
            advanced=True,
        )  # fmt: skip
        self.add_number(
            "NODATA", "Value of pixels without data", low=-1e38, high=1e38, advanced=True
        )
        self.add_number("CHIP_SIZE", "Chip side, pixels", low=32, whole=True, advanced=True)
        self.add_number("OVERLAP", "Pixels that chips share", low=0, whole=True, advanced=True)
        self.add_number(
            "BATCH_SIZE", "Chips that go through together", low=1, default=2, whole=True,
            advanced=True,
        )  # fmt: skip
        self.add(
            QgsProcessingParameterEnum(
                "TTA", "Look several times", ("once", "flips: 3 times the work", "all: 10 times"),
                defaultValue=0,
            ),
            advanced=True,
        )  # fmt: skip
        self.add(
            QgsProcessingParameterString(
                "DEVICE", "Device: cpu, cuda, cuda:1, mps (default: the best)", optional=True
            ),
            advanced=True,
        )
        self.add(
            QgsProcessingParameterBoolean(
                "RESUME", "Keep the work of a cancelled run, and go on from it", False
            ),
            advanced=True,
        )
        self.add(
            QgsProcessingParameterFolderDestination(
                "KEEP", "Folder for all that is found", optional=True, createByDefault=False
            )
        )
        self.add_output()

    def processAlgorithm(
        self, parameters: Values, context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> Values:
        """Run the command."""
        output = self.output(parameters, context)
        arguments = [
            "predict",
            self.raster(parameters, context, "INPUT"),
            "-v",
            f"--output={output}",
            "--overwrite",
            *self.layer_options(parameters, context),
            *self.option("--nodata", "NODATA", parameters, context),
            *self.option("--chip-size", "CHIP_SIZE", parameters, context),
            *self.option("--overlap", "OVERLAP", parameters, context),
            *self.option("--batch-size", "BATCH_SIZE", parameters, context),
        ]
        results, unfinished = {"OUTPUT": str(output)}, [output]
        for option, name in (("weights", "WEIGHTS"), ("device", "DEVICE"), ("keep", "KEEP")):
            given = self.parameterAsString(parameters, name, context)
            if given:
                arguments.append(f"--{option}={given}")
        if parameters.get("KEEP"):
            unfinished = [Path(parameters["KEEP"])]
            results["KEEP"] = parameters["KEEP"]
        bands = self.parameterAsInts(parameters, "BANDS", context)
        if bands:
            arguments.append("--bands=" + ",".join(map(str, bands)))
        views = self.parameterAsEnum(parameters, "TTA", context)
        if views:
            arguments.append(f"--tta={VIEWS[views - 1]}")
        if self.parameterAsBool(parameters, "RESUME", context):
            arguments.append("--resume")
            unfinished = []
        run_command(arguments, feedback, unfinished=unfinished)
        return {} if feedback.isCanceled() else results
