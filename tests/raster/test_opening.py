"""What cannot be opened as a raster is told by what it is."""

import geopandas as gpd
import pytest
import shapely

from footprints.errors import RasterError
from footprints.raster.opening import open_dataset


@pytest.mark.parametrize("ending", [".gpkg", ".shp", ".geojson", ".parquet"])
def test_a_vector_file_is_told_from_a_raster(tmp_path, ending):
    file = tmp_path / f"labels{ending}"
    layer = gpd.GeoDataFrame(geometry=[shapely.box(0, 0, 1, 1)], crs="EPSG:4326")
    layer.to_parquet(file) if ending == ".parquet" else layer.to_file(file)
    with pytest.raises(RasterError, match=rf"labels{ending} is a vector file, .*\(--aoi\)$"):
        open_dataset(str(file), trusted=False)


def test_a_file_that_can_name_nothing_gets_no_advice_to_trust_it(tmp_path):
    file = tmp_path / "notes.tif"
    file.write_text("no raster")
    with pytest.raises(RasterError, match=r"notes.tif as a raster: not recognized .* file format$"):
        open_dataset(str(file), trusted=False)
