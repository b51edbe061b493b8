"""The page of a layer in a browser: what is drawn, and what slider, pointer and keys do."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import geopandas as gpd
import numpy as np
import pytest
from known_town import NORTH_UP, UTM, on_ground
from labelled_scenes import write_image
from PIL import Image
from shapely import Polygon, box

import footprints as fp

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

GREY = 120
HEIGHT, WIDTH = 200, 300
SHED, HOUSE, BLOCK = (
    box(20, 20, 80, 90),
    box(120, 30, 180, 80),
    box(60, 110, 240, 190).difference(box(110, 130, 190, 170)),
)
CONFIDENCES = [0.25, 0.6, 0.95]
PATIENCE_S = 60

Open = Callable[..., "Page"]


def layer_of(**columns) -> gpd.GeoDataFrame:
    columns = {"class": "building", "confidence": CONFIDENCES, **columns}
    return gpd.GeoDataFrame(columns, geometry=on_ground([SHED, HOUSE, BLOCK]), crs=UTM)


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    pixels = np.full((3, HEIGHT, WIDTH), GREY, dtype=np.uint8)
    return write_image(tmp_path / "town.tif", pixels, transform=NORTH_UP, crs=UTM)


@pytest.fixture
def open_page(chromium: Browser, scene: Path, tmp_path: Path) -> Iterator[Open]:
    """Opens the page of a layer; in the end nothing may have been asked of anyone, or failed."""
    contexts, requests, errors = [], [], []

    def open_it(layer: gpd.GeoDataFrame | None = None, width=900, height=600, **options) -> Page:
        view = fp.view(layer_of() if layer is None else layer, scene)
        path = view.save(tmp_path / "view.html", overwrite=True)
        options = {"viewport": {"width": width, "height": height}, **options}
        contexts.append(chromium.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(1000 * PATIENCE_S)
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
        page.goto(path.as_uri())
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert set(requests) == {(tmp_path / "view.html").as_uri()}
    assert not errors


def on_screen(page: Page, x: float, y: float) -> tuple[float, float]:
    """Where the page that shows everything has a pixel of the scene, in pixels of the canvas."""
    canvas = page.locator("#map").bounding_box()
    scale = min(canvas["width"] / WIDTH, canvas["height"] / HEIGHT) * 0.98
    middle = canvas["width"] / 2, canvas["height"] / 2
    return middle[0] + (x - WIDTH / 2) * scale, middle[1] + (y - HEIGHT / 2) * scale


def colour_at(page: Page, x: float, y: float) -> np.ndarray:
    """Colour of a small square of the canvas, 0 to 255."""
    picture = np.asarray(Image.open(io.BytesIO(page.locator("#map").screenshot())).convert("RGB"))
    x, y = round(x), round(y)
    return picture[y - 1 : y + 2, x - 1 : x + 2].reshape(-1, 3).mean(axis=0)


def eventually(holds: Callable[[], bool]) -> bool:
    """Whether it holds within the time a page may need to draw on a busy machine."""
    end = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def is_grey(page: Page, x: float, y: float) -> bool:
    return bool((np.abs(colour_at(page, x, y) - GREY) < 4).all())


def is_drawn(page: Page) -> bool:
    return is_grey(page, *on_screen(page, 10, 100))


def test_outlines_are_drawn_over_the_pixels_of_the_scene(open_page):
    page = open_page()
    assert eventually(lambda: is_drawn(page))
    assert page.inner_text("#count") == "3 of 3 footprints shown"
    shed, house, block = (
        colour_at(page, *on_screen(page, x, y)) - GREY for x, y in ((50, 50), (150, 55), (80, 150))
    )
    assert shed.argmax() == 0  # red
    assert house[2] < min(house[0], house[1])  # yellow
    assert block.argmax() == 2  # blue
    # What is filled lets the scene through; a wall does not.
    assert np.abs(shed).max() < 60
    walls = [colour_at(page, *on_screen(page, x, 150)) for x in (60, 190)]
    for wall in walls:
        assert wall[2] - wall[0] > 120
    assert is_grey(page, *on_screen(page, 150, 150))  # courtyard


@pytest.mark.parametrize(
    "side_px", [pytest.param(1, id="a dot"), pytest.param(8, id="a shape without outline")]
)
def test_what_is_small_on_the_screen_is_drawn_without_outline(open_page, side_px):
    # About 2.3 pixels of the screen for each of the scene.
    places = [box(x, 40, x + side_px / 2.3, 40 + side_px / 2.3) for x in (40, 150, 260)]
    layer = layer_of().set_geometry(gpd.GeoSeries(on_ground(places), crs=UTM))
    page = open_page(layer)
    assert eventually(lambda: is_drawn(page))
    shed, house, block = (
        colour_at(page, *on_screen(page, *each.centroid.coords[0])) - GREY for each in places
    )
    assert shed.argmax() == 0
    assert house[2] < min(house[0], house[1])
    assert block.argmax() == 2
    # As opaque as colours need, and no wall around it: an outline reaches 2 px out.
    for each in places:
        x, y = on_screen(page, *each.centroid.coords[0])
        assert is_grey(page, x + side_px / 2 + 4, y)
    page.focus("#least")
    page.fill("#least", "0.6")
    assert eventually(lambda: is_grey(page, *on_screen(page, *places[0].centroid.coords[0])))


def test_the_slider_hides_what_is_less_sure(open_page):
    page = open_page()
    assert eventually(lambda: is_drawn(page))
    page.focus("#least")
    page.fill("#least", "0.6")
    assert page.inner_text("#count") == "2 of 3 footprints shown"
    assert page.inner_text("#value") == "0.60"
    assert eventually(lambda: is_grey(page, *on_screen(page, 50, 50)))
    assert not is_grey(page, *on_screen(page, 150, 55))
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#count") == "1 of 3 footprints shown"
    assert eventually(lambda: is_grey(page, *on_screen(page, 150, 55)))
    page.mouse.click(*on_screen(page, 150, 55))
    assert not page.is_visible("#details")


def test_a_click_shows_attributes_and_the_pointer_values(open_page):
    page = open_page(layer_of(height_m=[3.5, None, 12.0], note=["a", "b", None]))
    assert eventually(lambda: is_drawn(page))
    page.mouse.move(*on_screen(page, 150, 55))
    assert page.inner_text("#hover") == "class: building\nconfidence: 0.6"
    page.mouse.click(*on_screen(page, 150, 55))
    rows = [row.split("\t") for row in page.locator("#details tr").all_inner_texts()]
    assert rows == [
        ["class", "building"],
        ["confidence", "0.6"],
        ["height_m", "\N{EN DASH}"],
        ["note", "b"],
    ]
    page.mouse.move(*on_screen(page, 150, 150))
    assert not page.is_visible("#hover")
    page.mouse.click(*on_screen(page, 150, 150))
    assert not page.is_visible("#details")


def attribute(page: Page, name: str) -> str:
    return page.locator(f"#details tr:has(th:text-is('{name}')) td").inner_text()


def test_buttons_and_keys_go_from_the_least_certain_on(open_page):
    page = open_page()
    assert eventually(lambda: is_drawn(page))
    page.click("#next")
    assert attribute(page, "confidence") == "0.25"
    assert page.inner_text("#step") == "1 of 3, least certain first"
    assert page.is_disabled("#previous")
    # It is in the middle now, and large: a fifth of the view.
    canvas = page.locator("#map").bounding_box()
    middle = canvas["width"] / 2, canvas["height"] / 2
    assert eventually(lambda: colour_at(page, *middle)[0] > GREY + 10)
    page.keyboard.press("n")
    assert attribute(page, "confidence") == "0.6"
    page.keyboard.press("N")
    assert attribute(page, "confidence") == "0.95"
    assert page.is_disabled("#next")
    page.keyboard.press("p")
    assert attribute(page, "confidence") == "0.6"
    page.keyboard.press("Escape")
    assert not page.is_visible("#details")
    page.fill("#least", "0.5")
    page.keyboard.press("n")
    assert page.inner_text("#step") == "1 of 2, least certain first"


def test_keys_move_and_zoom(open_page):
    page = open_page()
    assert eventually(lambda: is_drawn(page))
    bar = page.locator("#scale")
    before = bar.inner_text(), page.locator("#scale span").bounding_box()["width"]
    assert before[0] == "10 m"
    ends = on_screen(page, 0, 0)[0], on_screen(page, 10 / 0.3, 0)[0]
    assert before[1] == pytest.approx(ends[1] - ends[0], rel=0.01)
    page.locator("#map").focus()
    for _ in range(5):
        page.keyboard.press("+")
    assert eventually(lambda: bar.inner_text() == "2 m")
    page.keyboard.press("0")
    assert eventually(lambda: bar.inner_text() == "10 m")
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    left, top = on_screen(page, 150, 55)
    assert eventually(lambda: is_grey(page, left, top))
    page.keyboard.press("0")
    assert eventually(lambda: not is_grey(page, left, top))
    page.keyboard.press("i")
    assert eventually(lambda: not is_drawn(page))
    assert not page.is_checked("#image")


def test_everything_is_reached_by_keyboard(open_page):
    page = open_page()
    reached = []
    for _ in range(11):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    ids = {"map", "in", "out", "fit", "least", "next", "fill", "image", "SUMMARY"}
    assert ids <= set(reached)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_narrow_windows_show_all_of_it(open_page, scheme):
    page = open_page(width=360, height=640, color_scheme=scheme, has_touch=True)
    assert eventually(lambda: is_drawn(page))
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.locator("#map").bounding_box()["height"] > 250
    page.tap("#next")
    assert attribute(page, "confidence") == "0.25"
    for name in ("#least", "#next", "#previous", "#close", "#in", "#fit"):
        place = page.locator(name).bounding_box()
        assert 0 <= place["x"] <= place["x"] + place["width"] <= 360, name
        assert place["y"] + place["height"] <= 640, name
    for name in ("h1", "#count", "#step", "#next", "#details td"):
        assert contrast(page, name) >= 4.5, name


def contrast(page: Page, selector: str) -> float:
    """Contrast of a text to the paper, as WCAG defines it."""
    both = page.evaluate(
        """(selector) => [
             getComputedStyle(document.querySelector(selector)).color,
             getComputedStyle(document.body).backgroundColor,
           ].map((text) => text.match(/[\\d.]+/g).slice(0, 3).map(Number))""",
        selector,
    )
    share = np.array(both) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    low, high = sorted(linear @ (0.2126, 0.7152, 0.0722))
    return (high + 0.05) / (low + 0.05)


def test_hostile_attributes_are_text(open_page):
    bad = (
        """</script><script>document.title = "owned"</script><img src=x onerror=alert(1)>"'&amp;"""
    )
    layer = layer_of(**{"note": [bad, "b" * 1_000_000, "{{c}}"], bad: ["<b>1</b>"] * 3})
    page = open_page(layer)
    page.click("#next")
    assert attribute(page, "note") == bad
    cells = page.locator("#details th").all_inner_texts()
    assert bad in cells
    assert page.locator("#details img, #details b, #details script").count() == 0
    page.click("#next")
    shown = page.locator("#details tr").nth(2).inner_text()
    assert shown.startswith("note\tbbb")
    assert shown.endswith("and 998,000 more characters")
    assert page.title() == "Footprints"


def test_a_layer_without_confidences_has_no_slider(open_page):
    page = open_page(layer_of().drop(columns="confidence"))
    assert eventually(lambda: is_drawn(page))
    assert not page.is_visible("#least")
    assert not is_grey(page, *on_screen(page, 50, 50))
    page.mouse.click(*on_screen(page, 50, 50))
    assert attribute(page, "class") == "building"


def test_an_empty_layer_shows_the_scene(open_page):
    page = open_page(layer_of().iloc[:0])
    assert eventually(lambda: is_drawn(page))
    assert page.inner_text("#count") == "0 of 0 footprints shown"


def test_more_outlines_than_can_be_told_apart_are_filled(open_page):
    """From far away only areas are drawn, from near their outlines as well."""
    circle = SHED.centroid.buffer(25, quad_segs=400)
    many: list[Polygon] = [circle] * 100
    layer = gpd.GeoDataFrame({"confidence": [0.95] * 100}, geometry=on_ground(many), crs=UTM)
    page = open_page(layer)
    assert eventually(lambda: is_drawn(page))
    assert eventually(lambda: colour_at(page, *on_screen(page, 50, 55))[2] > 240)
