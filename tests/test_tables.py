"""What notebooks show of settings, weights, reports and labels: everything, and only as text."""

import re
from html.parser import HTMLParser

import geopandas as gpd
import numpy as np
import pytest
import torch
from known_town import TOWN, UTM, on_ground
from tiny_network import tiny_config, tiny_network

import footprints as fp
from footprints.chip import InputSpec, Scaling
from footprints.config import RunConfig, SceneConfig
from footprints.data.faults import Gap, LabelReport, Shift
from footprints.model.checkpoint import WeightsInfo
from footprints.model.detector import NetworkDetector
from footprints.rate_test import RateTest
from footprints.tables import beside, folded, table

HOSTILE = "</td><script>alert(1)</script><img src=x onerror='alert(2)'>\"&amp;"


class Reader(HTMLParser):
    """Elements, their attributes, and texts, as a browser understands them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.attributes: set[str] = set()
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.open.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def check_harmless(html: str) -> Reader:
    """Nothing that runs, loads or has a colour that a dark page might not show."""
    read = Reader(html)
    assert not {"script", "img", "style", "link", "iframe", "a"} & {*read.elements}
    assert read.attributes <= {"style", "open"}
    assert not re.search(r"colou?r|background|url", "".join(re.findall(r'style="[^"]*"', html)))
    return read


def test_hostile_text_stays_text():
    row = (HOSTILE, HOSTILE)
    html = folded(HOSTILE, beside([table([row], head=row, caption=HOSTILE, text=True)]))
    read = check_harmless(html)
    assert read.texts == [HOSTILE] * 6


def test_settings_show_what_is_unlike_the_defaults_first():
    scene = SceneConfig(images=(HOSTILE,), labels="roofs.gpkg", class_field="use")
    config = RunConfig(name="town", data={"scenes": [scene]}, train={"epochs": 7})
    html = config._repr_html_()
    read = check_harmless(html)
    texts = read.texts
    assert texts[:3] == ["RunConfig", "name", "town"]
    assert texts[texts.index("images") + 1] == HOSTILE
    assert texts[texts.index("epochs") + 1] == "7"
    # Stages as by default are folded, and so is what was not set in the others.
    assert '<details><summary style="cursor:pointer">model</summary>' in html
    assert '<details open><summary style="cursor:pointer">train</summary>' in html
    assert texts.index("epochs") < texts.index("patience")
    for name in ("anchor_sizes", "class_map", "patience", "learning_rate"):
        assert name in texts
    assert repr(config).startswith("RunConfig(name='town'")


def test_a_report_shows_all_that_it_prints():
    truth = layer_of(range(len(TOWN)))
    found = layer_of(range(2, len(TOWN)))
    found["confidence"] = np.linspace(0.2, 0.9, len(found))
    truth["use"] = found["class"] = HOSTILE
    report = fp.evaluate(found, truth, class_field="use", precision=0.9)
    read = check_harmless(report._repr_html_())
    shown = " ".join(read.texts)
    said = re.findall(r"[\w.,%]+", str(report).replace(HOSTILE, ""))
    assert set(said) <= {*re.findall(r"[\w.,%]+", shown)}
    assert HOSTILE in read.texts
    assert repr(report) == str(report)


def layer_of(numbers):
    return gpd.GeoDataFrame(geometry=on_ground([TOWN[number] for number in numbers]), crs=UTM)


@pytest.mark.parametrize(
    ("shift", "gaps", "says"),
    [
        pytest.param(None, None, "too few labels to tell", id="too few"),
        pytest.param(Shift(3.0, -4.0, 0.2), (Gap(84, 5.0, 6.0),), "84 around x 5, y 6", id="both"),
    ],
)
def test_labels_show_what_is_wrong_with_them(shift, gaps, says):
    report = LabelReport(1466, 1, 2, 3, 4, shift, gaps)
    read = check_harmless(report._repr_html_())
    assert read.texts[:4] == ["labels", "1,466", "on no image", "1"]
    assert says in read.texts
    if shift:
        assert "3.0 m east, 4.0 m south, standard error 0.2 m: clear; move them back" in read.texts


def test_a_detector_shows_what_its_weights_are():
    spec = InputSpec(bands=3, gsd_m=0.3, scaling=Scaling((127.0,) * 3, (64.0,) * 3), multiple=32)
    info = WeightsInfo(HOSTILE, tiny_config(), spec)
    detector = NetworkDetector(tiny_network(), info, torch.device("cpu"))
    read = check_harmless(detector._repr_html_())
    assert read.texts[:2] == ["weights", HOSTILE]
    assert read.texts[read.texts.index("runs on") + 1] == "cpu, in float32"
    assert "default confidence" in read.texts


def test_a_rate_test_prints_its_suggestion_not_its_rates():
    rates = np.geomspace(1e-6, 0.1, 100)
    said = repr(RateTest(rates, np.ones(100), 2.5e-4))
    assert said == "RateTest(suggestion 0.00025, 100 rates from 1e-06 to 0.1)"
    assert "no suggestion" in repr(RateTest(rates, np.ones(100), None))
