"""The report: one file that asks nothing of any server, with what it should show."""

import base64
import re
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from geopandas import GeoDataFrame
from labelled_scenes import write_image
from matplotlib.image import imread
from numpy.testing import assert_allclose
from shapely import box

import footprints as fp
from footprints.charts import bar_chart, cell_map, unit_chart
from footprints.errors import ConfigError, LayerError, OutputError, RasterError

X, Y = 350_000, 3_057_000
NORTH_UP = Affine(0.5, 0, X, 0, -0.5, Y)
UTM = "EPSG:32645"
VOID = {"meta", "circle", "rect", "line", "path", "image", "polyline"}


def house(x: float, y: float = 40):
    return box(X + x, Y - y - 10, X + x + 10, Y - y)


def layer_of(*polygons, crs=UTM, **columns) -> GeoDataFrame:
    return GeoDataFrame(columns, geometry=list(polygons), crs=crs)


PREDICTED = layer_of(house(10), house(30), house(180), confidence=[0.9, 0.8, 0.4])
TRUTH = layer_of(house(10), house(30), house(60))


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    pixels = np.full((3, 200, 400), 120, dtype=np.uint8)
    pixels[0, :, 200:] = 250
    write_image(tmp_path / "scene.tif", pixels, transform=NORTH_UP, crs=UTM)
    return tmp_path / "scene.tif"


class Page(HTMLParser):
    """What a page is made of; fails where a tag is not closed."""

    def __init__(self, path: Path):
        super().__init__()
        self.open, self.addresses, self.tags, self.text = [], [], [], ""
        self.feed(path.read_text())
        assert self.open == ["html"] or not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in {"href", "src"}]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in {"href", "src"}]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_report_has_tables_charts_map_and_suggestions(tmp_path):
    report = fp.evaluate(PREDICTED, TRUTH, html=tmp_path / "r.html", precision=0.9)
    page = Page(tmp_path / "r.html")
    assert report.figures is not None
    for text in ("AP50", "PoLiS", "pixel IoU", "0 to 25 m2", "F1 by place", "Reliability"):
        assert text in page.text
    assert "0.667   (2 of 3 predicted)" in page.text
    assert "Confidence 0.8 has the best F1, 0.800." in page.text
    assert "Confidence 0.8 reaches precision 0.9, with recall 0.667." in page.text
    assert page.tags.count("svg") == 4
    assert page.addresses == []
    assert "Worst places" not in page.text


def test_no_request_leaves_the_report(tmp_path, scene):
    fp.evaluate(PREDICTED, TRUTH, html=tmp_path / "r.html", scene=scene)
    page = Page(tmp_path / "r.html")
    assert page.addresses
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    text = (tmp_path / "r.html").read_text()
    assert "http://" not in text
    assert "https://" not in text
    assert "url(" not in text
    assert "default-src 'none'" in text


def test_the_worst_places_show_the_scene_with_hits_misses_and_false_alarms(tmp_path, scene):
    fp.evaluate(PREDICTED, TRUTH, html=tmp_path / "r.html", scene=scene)
    page = Page(tmp_path / "r.html")
    assert "Worst places of scene.tif" in page.text
    assert page.text.count("1 wrong") == 2
    first = imread(BytesIO(base64.b64decode(page.addresses[0].partition(",")[2])))
    # 100 m around the miss at 65 m: from 15 to 115 m, and the red half begins at 100 m.
    assert first.shape[:2] == (200, 200)
    assert_allclose(first[100, [0, 169, 170, 199], 0] * 255, [120, 120, 250, 250], atol=0.5)
    text = (tmp_path / "r.html").read_text()
    # The miss from 60 to 70 m and 40 to 50 m down lies at pixels 90 to 110 and 80 to 100 of 200.
    outline = re.search(r'<path d="([^"]+)" fill="none" stroke="#ffe14d"', text)
    points = np.array(re.findall(r"([\d.]+),([\d.]+)", outline[1]), dtype=float)
    assert_allclose(points.min(axis=0), [180, 160])
    assert_allclose(points.max(axis=0), [220, 200])


def test_a_scene_in_another_crs_is_drawn_in_its_own(tmp_path, scene):
    away = [layer.to_crs("EPSG:4326") for layer in (PREDICTED, TRUTH)]
    fp.evaluate(*away, html=tmp_path / "r.html", scene=scene)
    outline = re.search(
        r'<path d="([^"]+)" fill="none" stroke="#ffe14d"', Path(tmp_path / "r.html").read_text()
    )
    points = np.array(re.findall(r"([\d.]+),([\d.]+)", outline[1]), dtype=float)
    assert_allclose(np.ptp(points, axis=0), [40, 40], atol=0.5)


def test_a_place_without_errors_is_called_so(tmp_path, scene):
    fp.evaluate(TRUTH, TRUTH, html=tmp_path / "r.html", scene=scene)
    assert "Nothing is wrong." in Page(tmp_path / "r.html").text


def test_text_from_attributes_and_files_is_escaped(tmp_path, scene):
    name = "<script>alert(1)</script>"
    odd = scene.rename(tmp_path / "a&b<i>.tif")
    predicted = PREDICTED.assign(**{"class": [name] * 3})
    fp.evaluate(
        predicted,
        TRUTH.assign(kind=[name] * 3),
        class_field="kind",
        html=tmp_path / "r.html",
        scene=odd,
    )
    page = Page(tmp_path / "r.html")
    assert "script" not in page.tags
    assert "i" not in page.tags
    assert name in page.text
    assert "a&b<i>.tif" in page.text


def test_empty_layers_have_a_report(tmp_path):
    fp.evaluate(layer_of(), layer_of(), html=tmp_path / "r.html")
    assert "There is nothing to show." in Page(tmp_path / "r.html").text


def test_the_map_has_north_on_top(tmp_path):
    predicted, truth = layer_of(house(0, 0), house(0, 500)), layer_of(house(0, 0))
    fp.evaluate(predicted, truth, html=tmp_path / "r.html")
    cells = re.findall(
        r'y="([\d.]+)" fill="#\w+" text-anchor="middle">(\d\.\d\d)<',
        (tmp_path / "r.html").read_text(),
    )
    assert [value for _, value in cells] == ["1.00", "0.00"]
    assert float(cells[0][0]) < float(cells[1][0])


def test_reports_that_cannot_be_are_refused_before_the_work(tmp_path, scene):
    with pytest.raises(ConfigError, match=r"scene .*scene.tif is for the pictures of a report"):
        fp.evaluate(PREDICTED, TRUTH, scene=scene)
    with pytest.raises(OutputError, match=r"a report must end in \.html, got 'r\.txt'"):
        fp.evaluate("absent.gpkg", TRUTH, html=tmp_path / "r.txt")
    with pytest.raises(OutputError, match="folder of the report does not exist"):
        fp.evaluate("absent.gpkg", TRUTH, html=tmp_path / "no" / "r.html")
    with pytest.raises(RasterError):
        fp.evaluate(PREDICTED, TRUTH, html=tmp_path / "r.html", scene=tmp_path / "no.tif")
    far = [layer.set_geometry(layer.translate(5000)) for layer in (PREDICTED, TRUTH)]
    with pytest.raises(LayerError, match=r"scene.tif shows none of the buildings"):
        fp.evaluate(*far, html=tmp_path / "r.html", scene=scene)
    assert not (tmp_path / "r.html").exists()


def test_charts_place_values_from_the_lower_left():
    drawn = unit_chart(np.array([0.0, 1.0]), np.array([0.0, 1.0]), names=("a<b", "c"))
    (x0, y0), (x1, y1) = (
        map(float, pair.split(",")) for pair in re.search('points="([^"]+)"', drawn)[1].split()
    )
    assert x0 < x1
    assert y0 > y1
    assert "a&lt;b" in drawn


def test_bars_are_as_high_as_their_values():
    heights = re.findall(r'height="([\d.]+)" fill', bar_chart(["s"], {"r": [0.5], "p": [1.0]}))
    assert 2 * float(heights[-2]) == pytest.approx(float(heights[-1]))


def luminance(colour: list[int]) -> float:
    share = np.array(colour) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


@pytest.mark.parametrize("value", np.linspace(0, 1, 21))
def test_figures_of_the_map_can_be_read(value):
    drawn = cell_map(np.array([[value]]))
    ground = [int(x) for x in re.search(r"rgb\((\d+), (\d+), (\d+)\)", drawn).groups()]
    ink = [int(x, 16) for x in re.findall("..", re.search('fill="#(......)" text', drawn)[1])]
    bright, dark = sorted((luminance(ground), luminance(ink)), reverse=True)
    assert (bright + 0.05) / (dark + 0.05) >= 4.5


def test_a_photograph_in_pixel_coordinates_is_shown_too(tmp_path):
    pixels = np.full((3, 60, 80), 90, dtype=np.uint8)
    write_image(tmp_path / "photo.tif", pixels, crs=None)
    truth = layer_of(box(40, 40, 50, 50), crs=None)
    report = fp.evaluate(
        layer_of(box(5, 5, 15, 15), box(40, 40, 50, 50), crs=None),
        truth,
        html=tmp_path / "r.html",
        scene=tmp_path / "photo.tif",
    )
    assert (report.tp, report.fp, report.fn) == (1, 1, 0)
    page = Page(tmp_path / "r.html")
    assert "1 wrong" in page.text
    shown = imread(BytesIO(base64.b64decode(page.addresses[0].partition(",")[2])))
    assert shown.shape[:2] == (60, 80)
    assert_allclose(shown[..., 0] * 255, 90, atol=0.5)


@pytest.mark.parametrize("width", [400, 1200])
def test_a_browser_shows_all_of_the_report_at_any_width(chromium, tmp_path, scene, width):
    fp.evaluate(PREDICTED, TRUTH, html=tmp_path / "r.html", scene=scene)
    page = chromium.new_page(viewport={"width": width, "height": 800})
    page.set_default_timeout(60_000)
    problems = []
    page.on("console", lambda line: problems.append(line.text))
    page.goto((tmp_path / "r.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == width
    shapes = page.evaluate(
        """[...document.querySelectorAll("svg[viewBox]")].map((svg) => [
             svg.clientWidth / svg.clientHeight,
             svg.viewBox.baseVal.width / svg.viewBox.baseVal.height,
           ])"""
    )
    assert len(shapes) > 4
    for shown, drawn in shapes:
        assert shown == pytest.approx(drawn, rel=0.03)
    assert not problems
    page.close()
