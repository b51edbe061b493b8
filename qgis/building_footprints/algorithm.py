"""What the algorithms share: options that several commands take, and how a layer is handed over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qgis.core import (
    QgsMapLayer,
    QgsProcessing,
    QgsProcessingAlgorithm,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProcessingLayerPostProcessorInterface,
    QgsProcessingParameterCrs,
    QgsProcessingParameterDefinition,
    QgsProcessingParameterDistance,
    QgsProcessingParameterEnum,
    QgsProcessingParameterNumber,
    QgsProcessingParameterVectorDestination,
    QgsProviderRegistry,
    QgsUnitTypes,
    QgsWkbTypes,
)

METHODS = ("auto", "right-angles", "diagonals", "any-angle", "circle")
READABLE = ("gpkg", "shp", "geojson", "json", "fgb", "parquet")
Values = dict[str, Any]


class _OwnStyle(QgsProcessingLayerPostProcessorInterface):
    """Gives a result the style that its file holds; Processing's own loading leaves it out."""

    def postProcessLayer(
        self, layer: QgsMapLayer, context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> None:
        """What Processing calls when the result is in the project."""
        layer.loadDefaultStyle()
        layer.triggerRepaint()


_styles: dict[str, _OwnStyle] = {}
"""By output. QGIS deletes a post-processor with its run, so each has its own, and it holds no
reference to its Python part, which is needed after the algorithm is gone."""


class FootprintsAlgorithm(QgsProcessingAlgorithm):
    """An algorithm that runs one command."""

    def createInstance(self) -> FootprintsAlgorithm:
        """A fresh one for each run."""
        return type(self)()

    def group(self) -> str:
        """None: the provider has few algorithms."""
        return ""

    def groupId(self) -> str:
        """None, likewise."""
        return ""

    def add(self, parameter: QgsProcessingParameterDefinition, *, advanced: bool = False) -> None:
        """Add a parameter, to those that are folded away if it is an advanced one."""
        if advanced:
            parameter.setFlags(parameter.flags() | QgsProcessingParameterDefinition.FlagAdvanced)
        self.addParameter(parameter)

    def add_number(
        self, name: str, text: str, *, low: float, high: float = 1e9, default: float | None = None,
        whole: bool = False, advanced: bool = False,
    ) -> None:  # fmt: skip
        """Add a number that may be left empty; the command has its own default then."""
        kind = QgsProcessingParameterNumber
        self.add(
            kind(name, text, kind.Integer if whole else kind.Double, default, True, low, high),
            advanced=advanced,
        )

    def add_metres(self, name: str, text: str, default: float | None = None) -> None:
        """Add a distance, in metres whatever the layer's CRS."""
        distance = QgsProcessingParameterDistance(name, text, default, "", True, 0)
        distance.setDefaultUnit(QgsUnitTypes.DistanceMeters)
        self.add(distance)

    def add_layer_options(self) -> None:
        """Add what predict and finish ask of a layer."""
        self.add_number("CONFIDENCE", "Least confidence (default: the weights' own)", low=0, high=1)
        self.add_number("MIN_AREA", "Least area, square metres", low=0, default=4.0)
        self.add(
            QgsProcessingParameterEnum(
                "REGULARIZE", "Straight walls", ("as traced", *METHODS), defaultValue=0
            )
        )
        self.add_metres("TOLERANCE", "Outlines may move this far for straight walls (default: 1 m)")
        self.add_metres("SIMPLIFY", "Drop vertices, outlines may move this far (default: none)")
        self.add(
            QgsProcessingParameterCrs("OUT_CRS", "CRS of the layer", optional=True), advanced=True
        )

    def add_output(self) -> None:
        """Add the layer that is written."""
        self.add(
            QgsProcessingParameterVectorDestination(
                "OUTPUT", "Buildings", QgsProcessing.TypeVectorPolygon
            )
        )

    def layer_options(self, parameters: Values, context: QgsProcessingContext) -> list[str]:
        """The arguments of `add_layer_options` and of the output."""
        options = [
            *self.option("--confidence", "CONFIDENCE", parameters, context),
            *self.option("--min-area", "MIN_AREA", parameters, context),
            *self.option("--tolerance", "TOLERANCE", parameters, context),
            *self.option("--simplify", "SIMPLIFY", parameters, context),
        ]
        method = self.parameterAsEnum(parameters, "REGULARIZE", context)
        if method:
            options += ["--regularize", METHODS[method - 1]]
        crs = self.parameterAsCrs(parameters, "OUT_CRS", context)
        if crs.isValid():
            options += ["--out-crs", crs.authid() or crs.toWkt()]
        return options

    def option(
        self, option: str, name: str, parameters: Values, context: QgsProcessingContext
    ) -> list[str]:
        """An option with a number, or nothing where the number is left empty."""
        if parameters.get(name) is None:
            return []
        return [option, f"{self.parameterAsDouble(parameters, name, context):g}"]

    def output(self, parameters: Values, context: QgsProcessingContext) -> Path:
        """Where the layer goes; QGIS is told to draw it as its file says."""
        path = self.parameterAsOutputLayer(parameters, "OUTPUT", context)
        if context.willLoadLayerOnCompletion(path):
            _styles[path] = _OwnStyle()
            context.layerToLoadOnCompletionDetails(path).setPostProcessor(_styles[path])
        return Path(path)

    def raster(self, parameters: Values, context: QgsProcessingContext, name: str) -> str:
        """File or address of a raster layer.

        Raises:
            QgsProcessingException: The command cannot open what QGIS shows, such as a tile server.
        """
        layer = self.parameterAsRasterLayer(parameters, name, context)
        if layer is None:
            raise QgsProcessingException(self.invalidRasterError(parameters, name))
        if layer.providerType() != "gdal":
            raise QgsProcessingException(
                f"{layer.name()} is no raster file but comes from {layer.providerType()}; export "
                "it as a GeoTIFF first"
            )
        return _place(layer)

    def vector(
        self, parameters: Values, context: QgsProcessingContext, name: str,
        feedback: QgsProcessingFeedback,
    ) -> str:  # fmt: skip
        """File of a vector layer, a temporary one where it is not alone in its file.

        Raises:
            QgsProcessingException: There is no such layer, or it cannot be exported.
        """
        layer = self.parameterAsVectorLayer(parameters, name, context)
        if layer is None:
            raise QgsProcessingException(self.invalidSourceError(parameters, name))
        only_selected = getattr(parameters[name], "selectedFeaturesOnly", False)
        path = _place(layer)
        if not only_selected and not layer.subsetString() and _is_alone(layer, path):
            return path
        return self.parameterAsCompatibleSourceLayerPath(
            parameters, name, context, [], "gpkg", feedback
        )


def _place(layer: QgsMapLayer) -> str:
    uri = QgsProviderRegistry.instance().decodeUri(layer.providerType(), layer.source())
    return uri.get("path") or ""


def _is_alone(layer: QgsMapLayer, path: str) -> bool:
    """Whether the layer is the one of its file that has geometries, in a format we read."""
    if layer.providerType() != "ogr" or Path(path).suffix[1:].lower() not in READABLE:
        return False
    layers = QgsProviderRegistry.instance().querySublayers(path)
    return sum(each.wkbType() != QgsWkbTypes.NoGeometry for each in layers) == 1
