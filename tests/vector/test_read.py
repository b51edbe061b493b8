from pathlib import Path

import numpy as np
import pandas as pd
import pyogrio
import pytest
import shapely
from geopandas import GeoDataFrame
from shapely import LineString, MultiPolygon, Point, Polygon, box

from footprints.errors import LabelWarning, LayerError
from footprints.vector.read import clean_polygons, read_layer

BOW_TIE = Polygon([(0, 0), (10, 10), (10, 0), (0, 10)])


def layer_of(*geometries, crs="EPSG:32645"):
    return GeoDataFrame(
        {"name": list("abcdefgh"[: len(geometries)])}, geometry=list(geometries), crs=crs
    )


@pytest.mark.parametrize("ending", [".gpkg", ".shp", ".fgb", ".parquet"])
def test_reads_polygons_and_columns_of_every_format(tmp_path: Path, ending: str) -> None:
    layer = layer_of(box(0, 0, 1, 1), box(2, 0, 3, 1))
    path = tmp_path / f"labels{ending}"
    layer.to_parquet(path) if ending == ".parquet" else layer.to_file(path)
    read = read_layer(path).sort_values("name")
    assert read["name"].tolist() == ["a", "b"]
    assert read.crs == layer.crs
    assert shapely.equals(read.geometry.to_numpy(), layer.geometry.to_numpy()).all()


def test_multipolygons_become_one_row_a_part() -> None:
    two = MultiPolygon([box(0, 0, 1, 1), box(2, 0, 3, 1)])
    clean = clean_polygons(layer_of(two, box(5, 0, 6, 1)))
    assert clean["name"].tolist() == ["a", "a", "b"]
    assert clean.index.tolist() == [0, 1, 2]
    assert set(clean.geom_type) == {"Polygon"}


def test_invalid_polygons_are_repaired_and_counted() -> None:
    with pytest.warns(LabelWarning, match="1 repaired"):
        clean = clean_polygons(layer_of(BOW_TIE, box(20, 0, 21, 1)))
    assert clean["name"].tolist() == ["a", "a", "b"]
    assert clean.is_valid.all()
    assert clean.area.sum() == pytest.approx(51)


@pytest.mark.parametrize(
    "x",
    [
        pytest.param(0.5, id="flat"),
        pytest.param(np.inf, id="infinite"),
        pytest.param(np.nan, id="not a number"),
    ],
)
def test_polygons_without_area_are_left_out_and_counted(x: float) -> None:
    with np.errstate(invalid="ignore"):
        polygon = Polygon([(0, 0), (x, 0.5), (1, 1)])
    with pytest.warns(LabelWarning, match="1 without area left out"):
        clean = clean_polygons(layer_of(polygon, box(0, 0, 1, 1)))
    assert clean["name"].tolist() == ["b"]


def test_features_without_geometry_are_left_out_and_counted():
    with pytest.warns(LabelWarning, match="2 without geometry left out"):
        clean = clean_polygons(layer_of(None, box(0, 0, 1, 1), Polygon()))
    assert clean["name"].tolist() == ["b"]


def test_heights_are_dropped() -> None:
    clean = clean_polygons(layer_of(Polygon([(0, 0, 5), (1, 0, 5), (1, 1, 5)])))
    assert not clean.has_z.any()


def test_cleaning_leaves_the_layer_as_it_was() -> None:
    layer = layer_of(BOW_TIE)
    with pytest.warns(LabelWarning):
        clean_polygons(layer)
    assert layer.geometry[0].equals_exact(BOW_TIE)


@pytest.mark.parametrize(
    ("geometry", "kind"), [(Point(0, 0), "point"), (LineString([(0, 0), (1, 1)]), "linestring")]
)
def test_lines_and_points_are_refused(geometry, kind: str) -> None:
    with pytest.raises(LayerError, match=f"1 of 2 geometries are {kind}"):
        clean_polygons(layer_of(box(0, 0, 1, 1), geometry))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LayerError, match=r"not found: .*nowhere\.gpkg"):
        read_layer(tmp_path / "nowhere.gpkg")


@pytest.mark.parametrize("ending", [".gpkg", ".shp", ".parquet", ".geojson", ".txt"])
def test_a_damaged_file_is_one_line(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"broken{ending}"
    path.write_bytes(b"PK\x00 this is no layer" * 20)
    with pytest.raises(LayerError, match=r"cannot read .*broken") as error:
        read_layer(path)
    assert "\n" not in str(error.value)


def test_a_truncated_geopackage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.gpkg"
    layer_of(*[box(0, 0, 1, 1)] * 8).to_file(path)
    path.write_bytes(path.read_bytes()[:30_000])
    with pytest.raises(LayerError, match=r"cut\.gpkg"):
        read_layer(path)


@pytest.mark.filterwarnings("ignore:'crs' was not provided:UserWarning")
def test_a_layer_without_crs_is_refused_unless_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "pixels.gpkg"
    layer_of(box(0, 0, 1, 1), crs=None).to_file(path)
    with pytest.raises(LayerError, match="no coordinate reference system"):
        read_layer(path)
    assert read_layer(path, needs_crs=False).crs is None


def test_an_empty_layer_is_refused_on_demand(tmp_path: Path) -> None:
    path = tmp_path / "empty.gpkg"
    layer_of(box(0, 0, 1, 1)).iloc[:0].to_file(path, geometry_type="Polygon")
    assert read_layer(path).empty
    assert read_layer(path).crs == "EPSG:32645"
    with pytest.raises(LayerError, match="holds no polygon"):
        read_layer(path, allow_empty=False)


def test_a_file_of_several_layers_asks_which(tmp_path: Path) -> None:
    path = tmp_path / "town.gpkg"
    layer_of(box(0, 0, 1, 1)).to_file(path, layer="roofs")
    layer_of(box(0, 0, 1, 1), box(2, 0, 3, 1)).to_file(path, layer="houses")
    with pytest.raises(LayerError, match=r"2 layers \(roofs, houses\)"):
        read_layer(path)
    assert len(read_layer(path, layer="houses")) == 2


def test_a_table_without_geometry_beside_the_layer_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "styled.gpkg"
    layer_of(box(0, 0, 1, 1)).to_file(path, layer="houses")
    styles = pd.DataFrame({"style": ["red"]})
    pyogrio.write_dataframe(styles, path, layer="layer_styles", append=True, driver="GPKG")
    assert len(read_layer(path)) == 1


def test_a_table_is_no_layer(tmp_path: Path) -> None:
    path = tmp_path / "prices.csv"
    pd.DataFrame({"price": [1]}).to_csv(path, index=False)
    with pytest.raises(LayerError, match="holds no geometries"):
        read_layer(path)
