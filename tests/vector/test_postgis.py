"""A real PostGIS server, started for these tests; skipped where its binaries are not installed."""

import json
import os
import shutil
import socket
import subprocess
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
from shapely import Point
from test_scenes import record
from test_write import footprint_layer

from footprints.errors import OutputError
from footprints.vector.postgis import is_database, shown
from footprints.vector.scenes import attach_scenes
from footprints.vector.write import check_output, write_layer

psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")

PASSWORD = "s3cret/#?@:"  # of a server that lives as long as the tests
QUOTED = "s3cret%2F%23%3F%40%3A"


def binaries() -> Path | None:
    """The folder of the newest PostgreSQL server that has PostGIS."""
    servers = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((s for s in servers if list(Path("/usr/share/postgresql", s.parent.name).glob(
        "extension/postgis.control"))), None)  # fmt: skip


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A server on this machine alone, with one user that needs a password."""
    found = binaries()
    if found is None:
        pytest.skip("no PostGIS server; apt-get install postgresql postgresql-postgis")
    # PostgreSQL refuses to run as root.
    user = "postgres" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="footprints-postgis-"))
    (folder / "password").write_text(PASSWORD)
    for path in (folder, folder / "password"):
        shutil.chown(path, user or os.geteuid())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1]

    def run(*command: str | Path) -> None:
        done = subprocess.run(
            [str(part) for part in command], user=user, cwd=folder, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr

    data = folder / "data"
    run(found / "initdb", "-D", data, "-U", "analyst", "-A", "scram-sha-256", "-N",
        "--pwfile", folder / "password")  # fmt: skip
    settings = f"-p {number} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    run(found / "pg_ctl", "-D", data, "-w", "-l", folder / "log", "-o", settings, "start")
    try:
        with _connection(number) as connection:
            connection.execute("CREATE EXTENSION postgis")
            connection.execute("CREATE SCHEMA city")
        yield number
    finally:
        run(found / "pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder)


def _connection(port: int):
    return psycopg.connect(
        host="127.0.0.1", port=port, user="analyst", password=PASSWORD, dbname="postgres"
    )


@pytest.fixture
def ask(port: int) -> Callable[[str], list[tuple]]:
    """Ask the server, as somebody else would."""

    def question(text: str) -> list[tuple]:
        with _connection(port) as connection:
            return connection.execute(text).fetchall()

    return question


@pytest.fixture
def address(port: int) -> Callable[..., str]:
    def of(table: str, more: str = "", password: str = QUOTED) -> str:
        return f"postgresql://analyst:{password}@127.0.0.1:{port}/postgres?table={table}{more}"

    return of


@pytest.fixture(autouse=True)
def _no_tables(request: pytest.FixtureRequest) -> None:
    if "port" in request.fixturenames:
        with _connection(request.getfixturevalue("port")) as connection:
            connection.execute('DROP TABLE IF EXISTS town, city.town, "Odd ""Name" CASCADE')


def test_a_layer_comes_back_as_it_was(address, ask) -> None:
    layer = footprint_layer(5)
    attach_scenes(layer, [record()])
    write_layer(layer, address("city.town"))
    rows = ask(
        "SELECT fid, id, class, confidence, area_m2, cut, source, model, "
        "ST_AsBinary(geom), ST_SRID(geom), ST_IsValid(geom) FROM city.town ORDER BY fid"
    )
    assert [row[0] for row in rows] == [1, 2, 3, 4, 5]
    for number, name in enumerate(layer.columns[:-1], 1):
        assert [row[number] for row in rows] == layer[name].tolist()
    assert [shapely.from_wkb(row[8]) for row in rows] == layer.geometry.tolist()
    assert {row[9:] for row in rows} == {(32645, True)}
    assert ask("SELECT type, srid FROM geometry_columns WHERE f_table_name = 'town'") == [
        ("POLYGON", 32645)
    ]
    [(comment,)] = ask("SELECT obj_description('city.town'::regclass)")
    assert json.loads(comment) == layer.attrs["footprints"]
    indexes = {definition for (definition,) in ask(
        "SELECT indexdef FROM pg_indexes WHERE tablename = 'town'")}  # fmt: skip
    assert any("USING gist (geom)" in definition for definition in indexes)
    assert any("UNIQUE INDEX" in definition and "(fid)" in definition for definition in indexes)


def test_ogr_reads_the_table(address, port) -> None:
    ogrinfo = shutil.which("ogrinfo")
    if ogrinfo is None:
        pytest.skip("no ogrinfo; apt-get install gdal-bin")
    write_layer(footprint_layer(5), address("town"))
    source = f"PG:host=127.0.0.1 port={port} user=analyst dbname=postgres"
    said = subprocess.run(
        [ogrinfo, "-so", source, "town"], env={**os.environ, "PGPASSWORD": PASSWORD},
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "Geometry: Polygon" in said
    assert "Feature Count: 5" in said
    assert "FID Column = fid" in said


def test_a_table_is_replaced_only_if_asked(address, ask) -> None:
    write_layer(footprint_layer(3), address("town"))
    for attempt in (check_output, lambda path: write_layer(footprint_layer(5), path)):
        with pytest.raises(OutputError, match=r"output exists: .*public\.town; .*--overwrite, or"):
            attempt(address("town"))
    write_layer(footprint_layer(5), address("town"), overwrite=True)
    assert ask("SELECT count(*) FROM town") == [(5,)]


def test_a_layer_is_added_to_a_table(address, ask) -> None:
    for source in ("a.tif", "b.tif"):
        layer = footprint_layer(3)
        attach_scenes(layer, [record(source)])
        write_layer(layer, address("town", "&mode=append"))
    assert ask("SELECT count(*), count(DISTINCT fid) FROM town") == [(6, 6)]
    [(comment,)] = ask("SELECT obj_description('town'::regclass)")
    assert [scene["source"] for scene in json.loads(comment)] == ["a.tif", "b.tif"]
    with pytest.raises(OutputError, match="choose one"):
        check_output(address("town", "&mode=append"), overwrite=True)


def test_somebodys_own_comment_stays(address, port, ask) -> None:
    write_layer(footprint_layer(1), address("town"))
    with _connection(port) as connection:
        connection.execute("COMMENT ON TABLE town IS 'Ask Sita before you change this.'")
    write_layer(footprint_layer(1), address("town", "&mode=append"))
    assert ask("SELECT obj_description('town'::regclass)") == [
        ("Ask Sita before you change this.",)
    ]


@pytest.mark.parametrize("mode", ["replace", "append"])
def test_a_failure_leaves_the_table_as_it_was(address, ask, mode: str) -> None:
    write_layer(footprint_layer(3), address("town"))
    broken = footprint_layer(5)
    # The last row is what the server refuses, when all others are there.
    broken.loc[4, "source"] = "a\0b"
    append = mode == "append"
    place = address("town", "&mode=append" if append else "")
    with pytest.raises(OutputError, match="cannot write to"):
        write_layer(broken, place, overwrite=not append)
    assert ask("SELECT count(*) FROM town") == [(3,)]


def test_what_does_not_fit_the_table_is_refused(address) -> None:
    write_layer(footprint_layer(3), address("town"))
    append = address("town", "&mode=append")
    with pytest.raises(OutputError, match="has SRID 32645 and the layer 4326; use --out-crs"):
        write_layer(footprint_layer(3, crs="EPSG:4326"), append)
    with pytest.raises(OutputError, match="has no column captured, storeys"):
        write_layer(footprint_layer(3).assign(storeys=1, captured="2024"), append)


def test_odd_names_points_gaps_and_pixels(address, ask) -> None:
    points = gpd.GeoDataFrame(
        {"a'\"; --": ["x", None], "height": [1.5, np.nan]}, geometry=[Point(0, 1), Point(2, 3)]
    )
    write_layer(points, address("public.Odd%20%22Name"), geometry="Point")
    assert ask('SELECT "a\'""; --", height, ST_AsText(geom), ST_SRID(geom) FROM "Odd ""Name"') == [
        ("x", 1.5, "POINT(0 1)", 0), (None, None, "POINT(2 3)", 0)
    ]  # fmt: skip


def test_an_empty_layer_makes_a_table(address, ask) -> None:
    write_layer(footprint_layer(0), address("town"))
    assert ask("SELECT count(*) FROM town") == [(0,)]
    assert ask("SELECT type FROM geometry_columns WHERE f_table_name = 'town'") == [("POLYGON",)]


def test_a_crs_that_postgis_does_not_know_is_refused(address) -> None:
    odd = footprint_layer(1, crs="+proj=laea +lat_0=27 +lon_0=85")
    with pytest.raises(OutputError, match=r"PostGIS does not know the CRS .* --out-crs EPSG:4326"):
        write_layer(odd, address("town"))


def test_a_missing_schema_is_refused(address) -> None:
    with pytest.raises(OutputError, match="schema nowhere does not exist"):
        check_output(address("nowhere.town"))


def test_a_database_without_postgis_is_refused(address) -> None:
    with pytest.raises(OutputError, match="has no PostGIS; run CREATE EXTENSION postgis"):
        check_output(address("town").replace("/postgres?", "/template1?"))


# Credentials.


def test_a_wrong_password_is_not_told(address) -> None:
    with pytest.raises(OutputError, match="password authentication failed") as error:
        check_output(address("town", password="hunter2"))
    _assert_silent(error, "hunter2")
    assert "analyst@127.0.0.1" in str(error.value)


@pytest.mark.parametrize(
    "address",
    [
        pytest.param("postgresql://u:hunter2@127.0.0.1:1/db?table=t", id="no server"),
        pytest.param("postgresql://u@127.0.0.1:1/db?table=t&password=hunter2", id="in the query"),
        pytest.param("postgresql://u:hunter2@127.0.0.1:1/db", id="no table"),
        pytest.param("postgresql://u:hunter2@127.0.0.1:1/db?table=.t", id="odd table"),
        pytest.param("postgresql://u:hunter2#x@127.0.0.1/db?table=t", id="bare number sign"),
        pytest.param("postgresql://u:hunter2/x@127.0.0.1/db?table=t", id="bare slash"),
        pytest.param("postgresql://u:hunter2@[bad/db?table=t", id="odd host"),
        pytest.param("postgresql://u:hunter2@h/db?table=t&no=such", id="odd setting"),
        pytest.param("postgresql://u:hunter2@h/db?table=t&mode=add", id="odd mode"),
    ],
)
def test_no_error_tells_a_password(address: str) -> None:
    assert is_database(address)
    with pytest.raises(OutputError) as error:
        check_output(address)
    _assert_silent(error, "hunter2")
    assert "\n" not in str(error.value)


def _assert_silent(error: pytest.ExceptionInfo, secret: str) -> None:
    told = "".join(traceback.format_exception_only(error.value))
    cause = error.value.__cause__ or (
        None if error.value.__suppress_context__ else error.value.__context__
    )
    told += "" if cause is None else str(cause)
    assert secret not in told


def test_an_address_is_shown_without_password() -> None:
    shows = shown("postgresql://sita:hunter2@db.example:5433/gis?table=city.town&sslmode=require")
    assert shows == "postgresql://sita@db.example:5433/gis?table=city.town"
    assert shown("town.gpkg") == "town.gpkg"


def test_files_are_no_databases() -> None:
    assert not is_database("town.gpkg")
    assert not is_database(Path("postgresql:/town.gpkg"))
