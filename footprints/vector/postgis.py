"""Footprint layer -> table of a PostGIS database.

The address is PostgreSQL's own, with the table in its query:
``postgresql://user@host:5432/database?table=schema.name``. ``&mode=append`` adds to a table that is
there; otherwise it is made, or with ``overwrite`` replaced. Either happens in one transaction: a
run that fails leaves the table as it was. What else stands in the query (``sslmode=require``) goes
to PostgreSQL. Passwords are better kept in ``~/.pgpass`` or ``PGPASSWORD``; one in the address is
never shown, neither in messages nor in errors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pandas as pd
import shapely
from geopandas import GeoDataFrame
from pandas.api import types
from pyproj import CRS

from footprints.errors import OutputError
from footprints.vector.scenes import RECORD

if TYPE_CHECKING:
    from psycopg import Connection, Cursor
    from psycopg.sql import Composed, Identifier

_SCHEMES = ("postgresql://", "postgres://")
_EXAMPLE = "postgresql://user@host/database?table=schema.name"
GEOMETRY = "geom"
"""Name of the geometry column."""
KEY = "fid"
"""Name of the primary key, which QGIS asks for; as in a GeoPackage."""


def is_database(output: str | Path) -> bool:
    """Whether an output is the address of a table."""
    return isinstance(output, str) and output.startswith(_SCHEMES)


def shown(output: str | Path) -> str:
    """An output as messages may name it: without password."""
    return str(_parse(output)) if is_database(output) else str(output)  # type: ignore[arg-type]


def check_table(address: str, *, overwrite: bool = False) -> None:
    """Find out before the work starts whether a layer can be written.

    Args:
        address: Of the table.
        overwrite: Accept that it exists.

    Raises:
        OutputError: The address makes no sense, the database cannot be reached or has no PostGIS,
            the schema is missing or closed to the user, or the table exists; or the extra
            ``postgis`` is not installed.
    """
    table = _parse(address)
    with _connected(table) as cursor:
        _check(cursor, table, overwrite=overwrite)


def write_table(
    layer: GeoDataFrame, address: str, *, overwrite: bool = False, geometry: str = "Polygon"
) -> None:
    """Write a layer to a table, all of it or nothing.

    The table has the layer's columns, `GEOMETRY` with a spatial index, and `KEY`. Its comment is
    the record of scenes.

    Args:
        layer: Any layer.
        address: Of the table.
        overwrite: Replace an existing table.
        geometry: What an empty layer would hold.

    Raises:
        OutputError: As `check_table`; or the layer's CRS is unknown to PostGIS, or does not fit the
            table it is added to, or its columns do not.
    """
    table = _parse(address)
    with _connected(table) as cursor:
        exists = _check(cursor, table, overwrite=overwrite)
        srid = _srid(cursor, layer.crs)
        if exists and not table.append:
            cursor.execute(_sql("DROP TABLE {}", table.identifier))
        if exists and table.append:
            _check_fit(cursor, table, layer, srid)
        else:
            _create(cursor, table, layer, srid, geometry)
        _copy(cursor, table, layer, srid)
        _record(cursor, table, layer)


@dataclass(frozen=True, slots=True)
class _Table:
    """Where to write."""

    connection: dict[str, str] = field(repr=False)
    """What PostgreSQL's client takes."""
    schema: str
    name: str
    append: bool

    def __str__(self) -> str:
        where = self.connection
        user = f"{where['user']}@" if "user" in where else ""
        port = f":{where['port']}" if "port" in where else ""
        place = f"{user}{where.get('host', '')}{port}/{where.get('dbname', '')}"
        return f"postgresql://{place}?table={self.schema}.{self.name}"

    @property
    def identifier(self) -> Identifier:
        """The table's name, quoted."""
        from psycopg.sql import Identifier

        return Identifier(self.schema, self.name)


def _parse(address: str) -> _Table:
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        # Not even the reason is shown: it quotes what stands where a port should, and in a password
        # with a bare "/" or "#" that is the password.
        raise OutputError(
            f"cannot read the database address; write it as {_EXAMPLE}, and in names and passwords "
            f"%2F for /, %23 for #, %3F for ?, %40 for @ and %3A for :"
        ) from None
    query = dict(parse_qsl(parts.query))
    table, mode = query.pop("table", ""), query.pop("mode", "create")
    named = {
        "host": unquote(parts.hostname or ""),
        "port": "" if port is None else str(port),
        "user": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "dbname": unquote(parts.path.removeprefix("/")),
    }
    connection = {key: value for key, value in named.items() if value} | query
    schema, dot, name = table.rpartition(".")
    if not name or (dot and not schema):
        raise OutputError(f"the database address names no table; write it as {_EXAMPLE}")
    if mode not in ("create", "append"):
        raise OutputError(f"mode of a database address must be append or left out, got {mode!r}")
    return _Table(connection, schema or "public", name, append=mode == "append")


@contextmanager
def _connected(table: _Table) -> Iterator[Cursor[Any]]:
    """A cursor in a transaction that ends well or leaves nothing."""
    try:
        import psycopg
    except ImportError as err:
        raise OutputError(
            "writing to PostGIS needs psycopg; pip install 'building-footprints[postgis]'"
        ) from err
    try:
        connection: Connection[Any] = psycopg.connect(**table.connection)  # type: ignore[arg-type]
        with connection, connection.cursor() as cursor:
            yield cursor
    except psycopg.Error as err:
        reason = " ".join(str(err).split()) or type(err).__name__
        password = table.connection.get("password")
        if password:
            reason = reason.replace(password, "***")
        # From nothing: what a traceback would show of the cause may hold the password.
        raise OutputError(f"cannot write to {table}: {reason}") from None


def _check(cursor: Cursor[Any], table: _Table, *, overwrite: bool) -> bool:
    """Whether the table exists, once it is clear that it may be written."""
    if table.append and overwrite:
        raise OutputError(f"{table}: --overwrite replaces and mode=append adds; choose one")
    if not _ask(cursor, "SELECT 1 FROM pg_extension WHERE extname = 'postgis'"):
        raise OutputError(f"{table}: the database has no PostGIS; run CREATE EXTENSION postgis")
    may_create = _ask(
        cursor,
        "SELECT has_schema_privilege(oid, 'CREATE') FROM pg_namespace WHERE nspname = %s",
        table.schema,
    )
    if not may_create:
        known = "is closed to this user" if may_create is False else "does not exist"
        raise OutputError(f"{table}: schema {table.schema} {known}; name another one")
    exists = bool(
        _ask(
            cursor,
            "SELECT 1 FROM pg_tables WHERE schemaname = %s AND tablename = %s",
            table.schema,
            table.name,
        )
    )
    if exists and not (overwrite or table.append):
        raise OutputError(
            f"output exists: {table}; replace it with --overwrite, or add to it with &mode=append"
        )
    return exists


def _check_fit(cursor: Cursor[Any], table: _Table, layer: GeoDataFrame, srid: int) -> None:
    """Refuse to add a layer to a table of another CRS or without some of its columns."""
    there = _ask(
        cursor,
        "SELECT srid FROM geometry_columns "
        "WHERE f_table_schema = %s AND f_table_name = %s AND f_geometry_column = %s",
        table.schema,
        table.name,
        GEOMETRY,
    )
    if there != srid:
        raise OutputError(f"{table} has SRID {there} and the layer {srid}; use --out-crs")
    cursor.execute(
        "SELECT column_name FROM information_schema.columns "
        "WHERE table_schema = %s AND table_name = %s",
        (table.schema, table.name),
    )
    missing = set(_columns(layer)) - {name for (name,) in cursor.fetchall()}
    if missing:
        raise OutputError(
            f"{table} has no column {', '.join(sorted(missing))}; write another table"
        )


def _create(
    cursor: Cursor[Any], table: _Table, layer: GeoDataFrame, srid: int, geometry: str
) -> None:
    kinds = set(layer.geom_type) or {geometry}
    kind = kinds.pop() if len(kinds) == 1 else "Geometry"
    columns = [
        _sql("{} " + _column_type(layer[name]), _identifier(name)) for name in _columns(layer)
    ]
    columns.append(_sql(f"{{}} geometry({kind}, {srid})", _identifier(GEOMETRY)))
    cursor.execute(
        _sql(
            "CREATE TABLE {} ({} bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, {})",
            table.identifier,
            _identifier(KEY),
            _listed(columns),
        )
    )
    cursor.execute(
        _sql("CREATE INDEX ON {} USING gist ({})", table.identifier, _identifier(GEOMETRY))
    )


def _copy(cursor: Cursor[Any], table: _Table, layer: GeoDataFrame, srid: int) -> None:
    names = _columns(layer)
    geometries = shapely.to_wkb(
        shapely.set_srid(layer.geometry.to_numpy(), srid), hex=True, include_srid=True
    )
    columns = [layer[name].astype(object).where(layer[name].notna(), None) for name in names]
    listed = _listed([_identifier(name) for name in (*names, GEOMETRY)])
    with cursor.copy(_sql("COPY {} ({}) FROM STDIN", table.identifier, listed)) as copy:
        for row in zip(*columns, geometries, strict=True):
            copy.write_row(row)


def _record(cursor: Cursor[Any], table: _Table, layer: GeoDataFrame) -> None:
    """Write the record of scenes into the comment, behind those of layers added earlier."""
    from psycopg.sql import Literal

    comment = _ask(
        cursor,
        "SELECT obj_description(to_regclass(%s), 'pg_class')",
        table.identifier.as_string(cursor),
    )
    record = layer.attrs.get(RECORD, [])
    if comment is not None:
        try:
            record = json.loads(comment) + record
        except (json.JSONDecodeError, TypeError):
            # A comment of somebody's own stays.
            return
    cursor.execute(_sql("COMMENT ON TABLE {} IS {}", table.identifier, Literal(json.dumps(record))))


def _srid(cursor: Cursor[Any], crs: CRS | None) -> int:
    """PostGIS's number of a CRS; 0 for none."""
    if crs is None:
        return 0
    authority = crs.to_authority()
    found = authority and _ask(
        cursor,
        "SELECT srid FROM spatial_ref_sys WHERE auth_name = %s AND auth_srid = %s::int",
        *authority,
    )
    if not found:
        raise OutputError(f"PostGIS does not know the CRS {crs.name}; use --out-crs EPSG:4326")
    return int(found)


def _ask(cursor: Cursor[Any], question: str, *values: str) -> Any:  # noqa: ANN401  # any column
    """First column of the first row, None without one."""
    cursor.execute(question.encode(), values)
    row = cursor.fetchone()
    return None if row is None else row[0]


def _columns(layer: GeoDataFrame) -> list[str]:
    return [str(name) for name in layer.columns if name != layer.geometry.name]


def _column_type(column: pd.Series) -> str:
    if types.is_bool_dtype(column):
        return "boolean"
    if types.is_integer_dtype(column):
        return "bigint"
    if types.is_float_dtype(column):
        return "double precision"
    if types.is_datetime64_any_dtype(column):
        return "timestamp with time zone" if column.dt.tz is not None else "timestamp"
    return "text"


def _sql(text: str, *parts: Any) -> Composed:  # noqa: ANN401  # psycopg's composable parts
    from psycopg.sql import SQL

    return SQL(text).format(*parts)


def _identifier(name: str) -> Identifier:
    from psycopg.sql import Identifier

    return Identifier(name)


def _listed(parts: Sequence[Any]) -> Composed:
    from psycopg.sql import SQL

    joined: Composed = SQL(", ").join(parts)
    return joined
