"""Virtual rasters read what lies in their folder, and nothing else."""

from pathlib import Path

import numpy as np
import pytest

from footprints.errors import RasterError
from footprints.raster.source import open_scene


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in" / "tiles").mkdir(parents=True)
    return tmp_path / "in"


def vrt(path: Path, source: str, *, relative: str = "1", band: str = "", inner: str = "") -> Path:
    path.write_text(
        "<VRTDataset rasterXSize='20' rasterYSize='20'><SRS>EPSG:32645</SRS>"
        "<GeoTransform>350000, 0.3, 0, 3057000, 0, -0.3</GeoTransform>"
        f"<VRTRasterBand dataType='Byte' band='1' {band}>{inner}"
        f"<SimpleSource><SourceFilename relativeToVRT='{relative}'>{source}</SourceFilename>"
        "<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    return path


@pytest.fixture
def tile(write_scene, noise, folder):
    """Writes a tile of the virtual raster."""

    def write(name: str) -> Path:
        return write_scene(noise(1, 20, 20), name)

    return write


def read(path: Path) -> np.ndarray:
    from footprints.chip import Window

    with open_scene(path, trusted=False) as scene:
        return scene.read(Window(0, 0, 20, 20), (20, 20))[0]


def test_sources_below_the_folder_are_read(tile, folder):
    path = tile("in/tiles/a b.tif")
    assert read(vrt(folder / "a.vrt", "tiles/a b.tif")).any()
    assert read(vrt(folder / "b.vrt", str(path), relative="0")).any()
    assert read(vrt(folder / "nested.vrt", "b.vrt")).any()


def test_sources_elsewhere_are_refused_unless_allowed(tile, folder, tmp_path):
    outside = tile("secret.tif")
    for name, source, relative in (
        ("up", "../secret.tif", "1"),
        ("absolute", str(outside), "0"),
    ):
        path = vrt(folder / f"{name}.vrt", source, relative=relative)
        with pytest.raises(RasterError, match=r"names .*secret.tif, which is not in its folder"):
            open_scene(path, trusted=False)
        with open_scene(path) as scene:
            assert scene.width == 20
    (folder / "link.tif").symlink_to(outside)
    with pytest.raises(RasterError, match="--allow-outside"):
        open_scene(vrt(folder / "c.vrt", "link.tif"), trusted=False)


def test_nested_ones_lead_nowhere_else(tile, folder):
    tile("secret.tif")
    vrt(folder / "tiles" / "inner.tif", "../../secret.tif")
    with pytest.raises(RasterError, match=r"outer.vrt names .*secret.tif, which is not in"):
        open_scene(vrt(folder / "outer.vrt", "tiles/inner.tif"), trusted=False)


@pytest.mark.parametrize(
    "source",
    [
        "/vsicurl/http://127.0.0.1:9/a.tif",
        "http://127.0.0.1:9/a.tif",
        "NETCDF:x.nc:a",
        "&lt;VRTDataset&gt;&lt;/VRTDataset&gt;",
        "vrt:///etc/passwd",
    ],
)
def test_addresses_are_refused(folder, source):
    with pytest.raises(RasterError, match=r"names .* no file in its folder; .* --allow-outside"):
        open_scene(vrt(folder / "a.vrt", source), trusted=False)


def test_descriptions_of_services_are_refused(folder):
    service = folder / "service.tif"
    service.write_text("<GDAL_WMS><Service name='TMS'/></GDAL_WMS>")
    with pytest.raises(RasterError, match="a text that can name rasters elsewhere"):
        open_scene(vrt(folder / "a.vrt", "service.tif"), trusted=False)
    with pytest.raises(RasterError, match=r"cannot open .*service.tif .*--allow-outside"):
        open_scene(service, trusted=False)


def test_code_is_refused(tile, folder):
    tile("in/a.tif")
    code = "<PixelFunctionLanguage>Python</PixelFunctionLanguage>"
    path = vrt(folder / "a.vrt", "a.tif", band="subClass='VRTDerivedRasterBand'", inner=code)
    with pytest.raises(RasterError, match=r"a.vrt brings code of its own .*PixelFunctionLang"):
        open_scene(path, trusted=False)


@pytest.mark.parametrize(
    "trick",
    [
        pytest.param("<SOURCEFILENAME relativetovrt='1'>../s.tif</SOURCEFILENAME>", id="capitals"),
        pytest.param("<MDI key='OVERVIEW_FILE'>/etc/passwd</MDI>", id="overviews"),
        pytest.param("<Option name='RPC_DEM'>/etc/passwd</Option>", id="heights"),
        pytest.param("<!-- remark -->", id="remark"),
        pytest.param("<![CDATA[x]]>", id="raw text"),
    ],
)
def test_tricks_are_refused(tile, folder, trick):
    tile("in/a.tif")
    tile("s.tif")
    with pytest.raises(RasterError, match="--allow-outside"):
        open_scene(vrt(folder / "a.vrt", "a.tif", inner=trick), trusted=False)


def test_a_document_type_is_refused(folder):
    path = folder / "a.vrt"
    path.write_text("<!DOCTYPE a [<!ENTITY b 'c'>]><VRTDataset>&b;</VRTDataset>")
    with pytest.raises(RasterError, match="remarks or declarations"):
        open_scene(path, trusted=False)


def test_huge_blocks_are_refused(tmp_path):
    import rasterio

    path = tmp_path / "bomb.tif"
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=10**6,
        height=10**6,
        count=1,
        dtype="uint8",
        crs="EPSG:32645",
        transform=rasterio.Affine(0.3, 0, 350_000, 0, -0.3, 3_057_000),
        tiled=True,
        blockxsize=65536,
        blockysize=65536,
        SPARSE_OK=True,
        BIGTIFF="YES",
        compress="deflate",
    ):
        pass
    assert path.stat().st_size < 10**5
    with pytest.raises(RasterError, match=r"blocks of 65536 x 65536 px, 4.0 GiB each"):
        open_scene(path)


def test_a_raster_of_absurd_size_is_read_in_parts(tmp_path):
    """A terabyte of nothing, in a file of megabytes."""
    import rasterio

    from footprints.chip import Window

    path = tmp_path / "wide.tif"
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=10**6,
        height=10**6,
        count=1,
        dtype="uint8",
        nodata=0,
        crs="EPSG:32645",
        transform=rasterio.Affine(0.01, 0, 350_000, 0, -0.01, 3_057_000),
        tiled=True,
        blockxsize=4096,
        blockysize=4096,
        SPARSE_OK=True,
        BIGTIFF="YES",
        compress="deflate",
    ):
        pass
    with open_scene(path, trusted=False) as scene:
        assert not scene.read(Window(500_000, 500_000, 64, 64), (64, 64))[1].any()
