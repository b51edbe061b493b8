"""Building footprints from satellite and aerial imagery: GeoTIFF in, clean polygons out."""

__version__ = "0.1.0"
