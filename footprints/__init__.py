"""Building footprints from satellite and aerial imagery: GeoTIFF in, clean polygons out."""
