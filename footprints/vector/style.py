"""How QGIS draws a footprint layer: outlines, coloured by confidence, on top of the imagery.

QGIS looks for a style in the table `layer_styles` of a GeoPackage; other programs leave it alone.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

SHADES = (
    (0.0, 0.3, "215,25,28"),
    (0.3, 0.5, "253,141,60"),
    (0.5, 0.7, "254,224,80"),
    (0.7, 0.9, "120,220,232"),
    (0.9, 1.0, "0,140,255"),
)
"""Confidence from and to, and red, green and blue. From red to blue, because those tell apart
what red and green do not to one man in twelve."""

LINE_MM = 0.5

_TABLE = """
CREATE TABLE layer_styles (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    f_table_catalog TEXT(256), f_table_schema TEXT(256), f_table_name TEXT(256),
    f_geometry_column TEXT(256), styleName TEXT(30), styleQML TEXT, styleSLD TEXT,
    useAsDefault BOOLEAN, description TEXT, owner TEXT(30), ui TEXT(30), update_time DATETIME
)
"""

_ROW = """
INSERT INTO layer_styles
SELECT 1, '', '', table_name, column_name, 'confidence', :style, '', 1,
       'Outlines coloured by confidence', '', NULL, :time
FROM gpkg_geometry_columns
"""

# As GDAL lists a table without geometry that it makes itself.
_LISTED = """
INSERT INTO gpkg_contents (table_name, data_type, identifier, last_change)
VALUES ('layer_styles', 'attributes', 'layer_styles', :time)
"""


def embed_style(path: Path, time: str) -> None:
    """Add the style to a GeoPackage of one layer.

    Args:
        path: A complete file that nobody else has open.
        time: Time stamp of the style, as GeoPackages write it.

    Raises:
        sqlite3.Error: The file cannot be written.
    """
    # SQLite cannot lock on many network drives, and nobody else knows of this file yet.
    address = f"{path.absolute().as_uri()}?nolock=1"
    with closing(sqlite3.connect(address, uri=True)) as connection, connection:
        connection.execute("PRAGMA journal_mode = MEMORY")
        connection.execute(_TABLE)
        connection.execute(_ROW, {"style": outline_style(), "time": time})
        connection.execute(_LISTED, {"time": time})


def outline_style() -> str:
    """The style, in the XML of QGIS 3."""
    ranges = "".join(
        f'<range lower="{low}" upper="{high}" symbol="{number}" label="{low} - {high}" '
        f'render="true"/>'
        for number, (low, high, _) in enumerate(SHADES)
    )
    symbols = "".join(_symbol(number, colour) for number, (_, _, colour) in enumerate(SHADES))
    return (
        "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>"
        '<qgis version="3.22.0" styleCategories="Symbology">'
        '<renderer-v2 type="graduatedSymbol" attr="confidence" graduatedMethod="GraduatedColor" '
        'symbollevels="0" enableorderby="0" forceraster="0">'
        f"<ranges>{ranges}</ranges><symbols>{symbols}</symbols></renderer-v2></qgis>"
    )


def _symbol(number: int, colour: str) -> str:
    settings = {"line_color": f"{colour},255", "line_width": LINE_MM, "line_width_unit": "MM"}
    options = "".join(
        f'<Option type="QString" name="{name}" value="{value}"/>'
        for name, value in settings.items()
    )
    return (
        f'<symbol type="fill" name="{number}" alpha="1" clip_to_extent="1">'
        '<layer class="SimpleLine" enabled="1" pass="0" locked="0">'
        f'<Option type="Map">{options}</Option></layer></symbol>'
    )
