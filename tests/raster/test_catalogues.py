"""STAC items and tile indexes name rasters, at or below their own folder."""

import json
from pathlib import Path

import geopandas as gpd
import pytest
from shapely import box

from footprints.errors import RasterError
from footprints.raster.listing import list_rasters


def item(name: str = "north", **assets: object) -> dict:
    return {"type": "Feature", "id": name, "assets": assets}


def asset(href: str, *roles: str, kind: str = "image/tiff; application=geotiff") -> dict:
    return {"href": href, "roles": list(roles), "type": kind}


@pytest.fixture
def write(tmp_path: Path):
    def write_json(content: object, name: str = "item.json") -> Path:
        path = tmp_path / "catalogue" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
        return path

    return write_json


@pytest.mark.parametrize(
    ("assets", "expected"),
    [
        ({"a": asset("a.tif", "data"), "t": asset("t.tif", "thumbnail")}, "a.tif"),
        ({"a": asset("./x/a b.tif", "visual"), "m": asset("m.tif", "metadata")}, "x/a b.tif"),
        ({"v": asset("v.tif", "visual"), "d": asset("d.tif", "data")}, "d.tif"),
        ({"a": asset("a.tif"), "p": asset("p.png", "data", kind="image/png")}, "a.tif"),
    ],
)
def test_an_item_has_one_image(write, assets, expected):
    path = write(item(**assets))
    assert [Path(p) for p in list_rasters(path)] == [path.parent / expected]


def test_a_collection_of_items_keeps_its_order(write):
    features = [item(n, image=asset(f"{n}.tif", "data")) for n in ("b", "a")]
    path = write({"type": "FeatureCollection", "features": features})
    assert list_rasters(path) == [str(path.parent / f"{n}.tif") for n in ("b", "a")]


def test_an_asset_can_be_named(write):
    path = write(item(red=asset("r.tif", "data"), all=asset("all.tif", "data")))
    assert list_rasters(path, asset="all") == [str(path.parent / "all.tif")]
    with pytest.raises(RasterError, match=r"2 assets of role data: red, all; .* --asset"):
        list_rasters(path)
    with pytest.raises(RasterError, match=r"item north of .* no asset 'nir'; it has red, all"):
        list_rasters(path, asset="nir")


@pytest.mark.parametrize(
    "href",
    [
        "file:///etc/passwd",
        "/etc/passwd",
        "../secret.tif",
        "x/../../secret.tif",
        "http://169.254.169.254/latest",
        "/vsicurl/http://10.0.0.1/a.tif",
        "s3://bucket/a.tif",
        "<VRTDataset/>",
    ],
)
def test_what_lies_elsewhere_is_refused_unless_allowed(write, href):
    path = write(item(image=asset(href, "data")))
    with pytest.raises(RasterError, match=r"item.json names '.*folder.*; .* --allow-outside"):
        list_rasters(path)
    assert len(list_rasters(path, allow_outside=True)) == 1


def test_links_do_not_lead_out_either(write, tmp_path):
    path = write(item(image=asset("link/a.tif", "data")))
    (path.parent / "link").symlink_to(tmp_path)
    with pytest.raises(RasterError, match="--allow-outside"):
        list_rasters(path)


def test_secrets_of_an_href_are_not_shown(write):
    path = write(item(image=asset("https://me:pass@host/a.tif?sig=sesame", "data")))
    with pytest.raises(RasterError) as caught:
        list_rasters(path)
    assert "pass@" not in str(caught.value)
    assert "sesame" not in str(caught.value)


def test_a_damaged_item_is_named(write):
    path = write({})
    path.write_text("{")
    with pytest.raises(RasterError, match=r"cannot read .*item.json as a STAC item"):
        list_rasters(path)


def index(folder: Path, locations: list[str], name: str) -> Path:
    path = folder / name
    gpd.GeoDataFrame(
        {"location": locations}, geometry=[box(0, 0, 1, 1)] * len(locations), crs="EPSG:4326"
    ).to_file(path)
    return path


@pytest.mark.parametrize("name", ["tiles.gpkg", "tiles.shp", "tiles.gti.gpkg", "tiles.fgb"])
def test_a_tile_index_names_its_tiles(tmp_path, name):
    path = index(tmp_path, ["ü b.tif", str(tmp_path / "c.tif")], name)
    assert sorted(list_rasters(path)) == [str(tmp_path / "c.tif"), str(tmp_path / "ü b.tif")]


def test_a_gti_file_names_its_index(tmp_path):
    index(tmp_path, ["a.tif"], "tiles.gpkg")
    gti = tmp_path / "tiles.gti"
    gti.write_text(
        "<GDALTileIndexDataset><IndexDataset>tiles.gpkg</IndexDataset></GDALTileIndexDataset>"
    )
    assert list_rasters(gti) == [str(tmp_path / "a.tif")]


def test_a_tile_index_names_nothing_elsewhere(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    path = index(folder, [str(tmp_path / "a.tif")], "tiles.gpkg")
    with pytest.raises(RasterError, match=r"tiles.gpkg names .*a.tif.*; .* --allow-outside"):
        list_rasters(path)
    assert list_rasters(path, allow_outside=True) == [str(tmp_path / "a.tif")]


def test_another_vector_file_is_left_to_gdal(tmp_path):
    path = tmp_path / "roads.gpkg"
    gpd.GeoDataFrame({"a": [1]}, geometry=[box(0, 0, 1, 1)], crs="EPSG:4326").to_file(path)
    assert list_rasters(path) == [str(path)]
