"""Building footprints from satellite and aerial imagery: GeoTIFF in, clean polygons out.

The public names are loaded when they are first used, so that ``import footprints`` and
``footprints --help`` are quick.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from footprints.batch import predict_each
    from footprints.config import RunConfig, load_config
    from footprints.data.chips import write_chips
    from footprints.data.faults import LabelReport, check_labels
    from footprints.data.synthetic import generate_scene
    from footprints.errors import FootprintsError, FootprintsWarning
    from footprints.evaluation import Report, evaluate
    from footprints.merging import merge_layers
    from footprints.model.convert import convert_weights
    from footprints.model.detector import load_detector
    from footprints.one_chip import chip_at
    from footprints.pictures import save_overlay
    from footprints.plotting import plot, plot_instances

    __version__: str
    from footprints.finishing import finish
    from footprints.pipeline import predict
    from footprints.rate_test import RateTest, lr_find
    from footprints.recalibration import calibrate
    from footprints.show_chips import show
    from footprints.streamed import predict_iter
    from footprints.training import train
    from footprints.vector.regularize import regularize
    from footprints.vector.simplify import simplify
    from footprints.viewing import View, view

_HOMES = {
    "FootprintsError": "footprints.errors",
    "FootprintsWarning": "footprints.errors",
    "RateTest": "footprints.rate_test",
    "LabelReport": "footprints.data.faults",
    "Report": "footprints.evaluation",
    "RunConfig": "footprints.config",
    "View": "footprints.viewing",
    "calibrate": "footprints.recalibration",
    "check_labels": "footprints.data.faults",
    "chip_at": "footprints.one_chip",
    "convert_weights": "footprints.model.convert",
    "evaluate": "footprints.evaluation",
    "finish": "footprints.finishing",
    "generate_scene": "footprints.data.synthetic",
    "load_config": "footprints.config",
    "load_detector": "footprints.model.detector",
    "lr_find": "footprints.rate_test",
    "merge_layers": "footprints.merging",
    "plot": "footprints.plotting",
    "plot_instances": "footprints.plotting",
    "predict": "footprints.pipeline",
    "predict_each": "footprints.batch",
    "predict_iter": "footprints.streamed",
    "regularize": "footprints.vector.regularize",
    "save_overlay": "footprints.pictures",
    "show": "footprints.show_chips",
    "simplify": "footprints.vector.simplify",
    "train": "footprints.training",
    "view": "footprints.viewing",
    "write_chips": "footprints.data.chips",
}

__all__ = [
    "FootprintsError",
    "FootprintsWarning",
    "LabelReport",
    "RateTest",
    "Report",
    "RunConfig",
    "View",
    "__version__",
    "calibrate",
    "check_labels",
    "chip_at",
    "convert_weights",
    "evaluate",
    "finish",
    "generate_scene",
    "load_config",
    "load_detector",
    "lr_find",
    "merge_layers",
    "plot",
    "plot_instances",
    "predict",
    "predict_each",
    "predict_iter",
    "regularize",
    "save_overlay",
    "show",
    "simplify",
    "train",
    "view",
    "write_chips",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name == "__version__":
        return version("building-footprints")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
