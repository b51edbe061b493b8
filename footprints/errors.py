"""One exception tree and one warning tree: catch the base to catch all of ours and nothing else."""


class FootprintsError(Exception):
    """Base class of every error raised on purpose: one line, what is wrong and what to do."""


class RasterError(FootprintsError):
    """A raster is missing, unreadable, truncated, empty or lacks a georeference."""


class GeoreferenceError(RasterError):
    """A raster does not say where it lies."""


class BandError(RasterError, ValueError):
    """The bands asked for and the bands at hand do not fit together."""


class ChipSizeError(FootprintsError, ValueError):
    """Chip size, overlap and raster size do not fit together."""


class ConfigError(FootprintsError, ValueError):
    """A configuration has an unknown key or a value out of range."""


class WeightsError(FootprintsError):
    """A weights file is missing, not ours, of a newer version, or does not fit its model."""


class LayerError(FootprintsError, ValueError):
    """A vector layer is missing, unreadable, without CRS, or does not overlap its scene."""


class AreaError(LayerError):
    """An area of interest touches none of its scenes."""


class RunError(FootprintsError):
    """A kept run is missing, of another version, damaged, or kept too little for what is asked."""


class OutputError(FootprintsError):
    """An output cannot be written: it exists, its folder is missing, read-only or full."""


class DeviceError(FootprintsError):
    """The compute device asked for is not there."""


class ClusterError(FootprintsError):
    """A cluster cannot be used: not installed, no answer, or its scheduler or workers are lost."""


class TrainingError(FootprintsError):
    """Training cannot start or go on: no labels, a loss that is not a number."""


class FootprintsWarning(UserWarning):
    """Base class of every warning of ours."""


class FailureWarning(FootprintsWarning):
    """A scene, or a part of it, could not be looked at; the others are gone on with."""


class DetectionCapWarning(FootprintsWarning):
    """A chip reached the cap on detections; buildings may be missing there."""


class BatchSizeWarning(FootprintsWarning):
    """Memory ran out, and fewer chips go through together."""


class ScalingWarning(FootprintsWarning):
    """A scene's pixel values were mapped onto those the weights were trained with."""


class OrientationWarning(FootprintsWarning):
    """A photograph is stored turned or mirrored; viewers turn it back, we do not."""


class SeamWarning(FootprintsWarning):
    """Footprints wider than the chip overlap were joined from parts."""


class StartWarning(FootprintsWarning):
    """Training starts from weights that fit the network only in part."""


class LabelWarning(FootprintsWarning):
    """Labels were repaired, reprojected or left out."""
