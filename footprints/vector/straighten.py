"""The last step of a layer's outlines: regularised, then simplified, or neither."""

from __future__ import annotations

from geopandas import GeoDataFrame

from footprints.errors import ConfigError
from footprints.stages import staged
from footprints.vector.regularize import DEFAULT_TOLERANCE_M, METHODS, regularize
from footprints.vector.result import check_metres
from footprints.vector.simplify import simplify

LEFT_AS_TRACED = (None, "none")
"""Methods that do not regularise."""


def check_options(
    method: str | None,
    tolerance_m: float | None,
    simplify_m: float | None,
    *,
    option: str = "--regularize",
) -> None:
    """Find out before the work starts whether `straighten` can do what is asked.

    Args:
        method: As for `straighten`.
        tolerance_m: Likewise.
        simplify_m: Likewise.
        option: What the command calls the method.

    Raises:
        ConfigError: The method is unknown, a distance is not a positive number, or there is a
            tolerance without a method.
    """
    if method is not None:
        known = (*METHODS, "none")
        if method not in known:
            raise ConfigError(f"{option} must be one of {', '.join(known)}, got {method!r}")
    if method in LEFT_AS_TRACED and tolerance_m is not None:
        raise ConfigError(
            f"--tolerance {tolerance_m} is of regularisation; name a method with {option}, or "
            "leave out --tolerance"
        )
    if tolerance_m is not None:
        check_metres(tolerance_m, "--tolerance")
    if simplify_m is not None:
        check_metres(simplify_m, "--simplify")


@staged("straightening")
def straighten(
    layer: GeoDataFrame,
    *,
    method: str | None = None,
    tolerance_m: float | None = None,
    simplify_m: float | None = None,
) -> GeoDataFrame:
    """Regularise a layer, then simplify it.

    Args:
        layer: Polygons in any CRS.
        method: As for `regularize`; None and "none" do not.
        tolerance_m: Metres; None takes the default.
        simplify_m: Metres; None does not.

    Returns:
        The layer; see `regularize` and `simplify`.

    Raises:
        ConfigError: As `check_options`.
        LayerError: Coordinates lie where the layer's CRS is not defined.
    """
    check_options(method, tolerance_m, simplify_m)
    if method not in LEFT_AS_TRACED:
        tolerance = DEFAULT_TOLERANCE_M if tolerance_m is None else tolerance_m
        layer = regularize(layer, method, tolerance)
    return layer if simplify_m is None else simplify(layer, simplify_m)
