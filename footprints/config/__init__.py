"""One frozen, validated model per stage; unknown keys are errors that name the known ones."""

from footprints.config.network import (
    CORNERS,
    BackboneConfig,
    BoxHeadConfig,
    DetectionConfig,
    FCNMaskConfig,
    KeypointConfig,
    MaskSettings,
    MLPMaskConfig,
    ModelConfig,
    Norm,
    PointRendConfig,
    RoIConfig,
    RPNConfig,
)
from footprints.config.reading import load_class_map, load_config, parse_config
from footprints.config.settings import ClassMap, Count, Positive, Settings, Share
from footprints.config.training import (
    AugmentConfig,
    DataConfig,
    OptimizerConfig,
    RunConfig,
    SceneConfig,
    TrainConfig,
)

__all__ = [
    "CORNERS",
    "AugmentConfig",
    "BackboneConfig",
    "BoxHeadConfig",
    "ClassMap",
    "Count",
    "DataConfig",
    "DetectionConfig",
    "FCNMaskConfig",
    "KeypointConfig",
    "MLPMaskConfig",
    "MaskSettings",
    "ModelConfig",
    "Norm",
    "OptimizerConfig",
    "PointRendConfig",
    "Positive",
    "RPNConfig",
    "RoIConfig",
    "RunConfig",
    "SceneConfig",
    "Settings",
    "Share",
    "TrainConfig",
    "load_class_map",
    "load_config",
    "parse_config",
]
