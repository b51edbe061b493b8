"""Rasters far away: few bytes, servers that fail now and then, and secrets in addresses."""

import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from known_buildings import KnownBuildings
from rasterio.shutil import copy
from shapely import box
from typer.testing import CliRunner

import footprints as fp
from footprints.addresses import redact
from footprints.chip import Window
from footprints.cli import app
from footprints.errors import FailureWarning, RasterError
from footprints.failures import failures_of
from footprints.raster import opening
from footprints.raster.source import open_scene

SIDE = 3072
PLACE = rasterio.Affine(0.3, 0, 350_000, 0, -0.3, 3_057_000)
GRID = {"chip_size": 256, "overlap": 64, "progress": False}


@pytest.fixture(scope="module")
def cog(tmp_path_factory) -> Path:
    """A cloud-optimised raster of noise, which no compression makes small."""
    path = tmp_path_factory.mktemp("served") / "cog.tif"
    pixels = np.random.default_rng(0).integers(40, 250, (1, SIDE, SIDE)).astype(np.uint8)
    plain = path.with_name("plain.tif")
    with rasterio.open(
        plain,
        "w",
        driver="GTiff",
        width=SIDE,
        height=SIDE,
        count=1,
        dtype="uint8",
        crs="EPSG:32645",
        transform=PLACE,
    ) as dataset:
        dataset.write(pixels)
    copy(plain, path, driver="COG", blocksize=256)
    return path


@pytest.fixture
def serve(cog, monkeypatch) -> Iterator[Callable[..., str]]:
    """Start a server of the raster's folder, and give its address."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("GDAL_HTTP_RETRY_DELAY", "0.05")
    # GDAL remembers files of servers that other tests had at the same port.
    monkeypatch.setenv("CPL_VSIL_CURL_NON_CACHED", "/vsicurl/")
    monkeypatch.setattr(opening, "_PAUSES_S", (0.01, 0.02, 0.05))
    with ExitStack() as running:

        def start(*fault: object) -> str:
            script = Path(__file__).with_name("range_server.py")
            server = running.enter_context(
                subprocess.Popen(
                    [sys.executable, str(script), str(cog.parent), *map(str, fault)],
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            running.callback(server.terminate)
            return f"127.0.0.1:{server.stdout.readline().strip()}"

        yield start


def bytes_sent(server: str) -> int:
    with urllib.request.urlopen(f"http://{server}/bytes") as answer:
        return int(answer.read())


@pytest.mark.parametrize(
    "fault", [("500", 3), ("drop", 4), ("reset", 4), ("slow", 5)], ids=lambda fault: fault[0]
)
def test_servers_that_fail_now_and_then_are_asked_again(serve, cog, fault):
    server = serve(*fault)
    window = Window(300, 500, 700, 700)
    with open_scene(cog) as local, open_scene(f"http://{server}/cog.tif", trusted=False) as remote:
        np.testing.assert_array_equal(
            remote.read(window, (700, 700))[0], local.read(window, (700, 700))[0]
        )


def test_what_a_server_keeps_refusing_is_an_error_that_names_the_pixels(serve):
    with pytest.raises(RasterError, match="cannot open http://127"):
        open_scene(f"http://{serve('500', 1)}/cog.tif")


def test_an_area_of_interest_costs_a_share_of_the_file(serve, cog):
    server = serve()
    ground = gpd.GeoDataFrame(geometry=[box(0, 0, 20, 20)], crs="EPSG:32645")
    ground = ground.translate(350_030, 3_056_900).to_frame("geometry")
    detector = KnownBuildings([box(350_035, 3_056_905, 350_045, 3_056_915)])
    layer = fp.predict(f"http://{server}/cog.tif", detector=detector, aoi=ground, **GRID)
    assert len(layer) == 1
    assert 0 < bytes_sent(server) < 0.4 * cog.stat().st_size


SECRETS = ["/cog.tif?sig=open-sesame", "/none.tif?sig=open-sesame"]


@pytest.mark.parametrize("kept", [True, False])
def test_secrets_are_nowhere_to_be_found(serve, tmp_path, kept):
    """Neither in files, messages, layers nor lists."""
    server = serve()
    scenes = [f"http://me:pass-word@{server}{query}" for query in SECRETS]
    output = tmp_path / "a.gpkg"
    detector = KnownBuildings([box(350_035, 3_056_905, 350_045, 3_056_915)])
    wanted = {"output": output} | ({"keep": tmp_path / "run"} if kept else {})
    with pytest.warns(FailureWarning) as caught:
        layer = fp.predict(scenes, detector=detector, keep_going=True, **wanted, **GRID)
    assert len(layer) == 1
    listed = failures_of(tmp_path / "run" if kept else output).read_text()
    assert f"http://***@{server}/none.tif?***" in listed
    texts = [listed, layer.to_json(), str(layer.attrs), *(str(each.message) for each in caught)]
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 3
    for text in [text.encode() for text in texts] + written:
        assert b"sesame" not in text
        assert b"pass-word" not in text


def test_errors_of_the_command_tell_no_secrets(serve, tmp_path):
    scene = f"http://me:pass-word@{serve()}/none.tif?sig=open-sesame"
    output = str(tmp_path / "a.gpkg")
    result = CliRunner().invoke(app, ["predict", scene, "-o", output, "--bands", "1,1,1", "-v"])
    assert result.exit_code == 1
    assert "404" in result.stderr
    assert "sesame" not in result.output
    assert "pass-word" not in result.output


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://host/a.tif", "https://host/a.tif"),
        ("cannot open https://u:p@host/a.tif?x=1: 404", "cannot open https://***@host/a.tif?***"),
        ("'/vsicurl?url=http%3A&sig=1' failed", "'/vsicurl?***' failed"),
        ("'/vsiaz/c/a.tif?sv=1&sig=2'", "'/vsiaz/c/a.tif?***'"),
        ("postgresql://u@h/db?table=a.b", "postgresql://u@h/db?table=a.b"),
        ("is it a.tif? or b@c.tif", "is it a.tif? or b@c.tif"),
    ],
)
def test_secrets_are_left_out_of_texts(text, shown):
    assert redact(text).startswith(shown)
