"""Configuration: unknown keys, overrides, environment variables and values out of range."""

import re
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from footprints.config import RunConfig, load_class_map, load_config
from footprints.errors import ConfigError

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))
MINIMAL = "data: {scenes: [{images: [a.tif], labels: a.gpkg}]}\n"


@pytest.fixture
def write(tmp_path):
    def write_config(text: str) -> Path:
        path = tmp_path / "run.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write_config


def test_a_minimal_file_takes_all_defaults(write):
    config = load_config(write(MINIMAL))
    assert config.data.scenes[0].images == ("a.tif",)
    assert config.train.epochs == 12
    assert config.model.detection.max_per_chip == 500


@pytest.mark.parametrize("path", CONFIGS, ids=[path.stem for path in CONFIGS])
def test_every_configuration_that_ships_is_valid(path, monkeypatch):
    for name in re.findall(r"\$(\w+)", path.read_text()):
        monkeypatch.setenv(name, f"/{name}")
    config = load_config(path)
    assert config.name == path.stem
    assert "$" not in config.model_dump_json()


def test_a_resolved_configuration_reads_as_itself(write):
    config = load_config(write(MINIMAL), ["model.bands=5", "augment.scale=[0.5, 2]"])
    resolved = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    assert load_config(write(resolved)) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            "modle: {}\n", r"unknown key modle; known keys: augment, data, model", id="top"
        ),
        pytest.param(
            "train: {epoch: 3}\n",
            r"unknown key train\.epoch; known keys: accumulate, batch_size, devices, epochs",
            id="in a section",
        ),
        pytest.param(
            "model: {backbone: {depth: 50}}\n",
            r"unknown key model\.backbone\.depth; known keys: channels, fpn_norm, frozen_stages",
            id="two levels down",
        ),
        pytest.param(
            "model: {mask_head: {kind: mlp, convs: 3}}\n",
            r"unknown key model\.mask_head\.convs; known keys: box_margin, classes, kind, layers",
            id="one kind of several",
        ),
        pytest.param(
            "model: {mask_head: {coarse: 3}}\n",
            r"unknown key model\.mask_head\.coarse; known keys: box_margin, classes, coarse_conv",
            id="the kind that is meant where none is named",
        ),
    ],
)
def test_unknown_keys_are_named_with_the_known_ones(write, text, message):
    with pytest.raises(ConfigError, match=message):
        load_config(write(MINIMAL + text))


def test_unknown_keys_of_a_scene_are_named_with_the_known_ones(write):
    text = "data: {scenes: [{images: [a.tif], labels: a.gpkg, weigth: 2}]}\n"
    with pytest.raises(ConfigError, match=r"data\.scenes\.0\.weigth; known keys: aoi, attribution"):
        load_config(write(text))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epochs=0", r"train\.epochs: .*greater than or equal to 1, got 0"),
        ("train.epochs=many", r"train\.epochs: .*integer.*, got 'many'"),
        ("train.precision=8", r"train\.precision: .*32-true"),
        ("data.chip_size=100", r"data\.chip_size: .*multiple of 32, got 100"),
        ("data.validation_share=1.5", r"validation_share: .*less than or equal to 1, got 1.5"),
        ("optimizer.average=1", r"optimizer\.average: .*less than 1"),
        ("model.rpn.anchor_sizes=[16, 32]", r"one size per level P2 to P6, got \(16"),
        ("model.classes=[]", "at least one class"),
        ("data.scenes=[]", "scenes"),
        ("augment.scale=[2, 0.5]", "scale"),
        ("model.mask_head={kind: cnn}", r"model\.mask_head: .*'fcn', 'mlp', 'pointrend'"),
        ("model.mask_head={kind: fcn, convs: -1}", r"model\.mask_head\.convs: .*got -1"),
        ("model.box_head.roi={op: pool}", r"model\.box_head\.roi: .*set reduce to maximum"),
        ("data.gsd_m=.nan", "gsd_m"),
        ("optimizer.learning_rate=.inf", "learning_rate"),
    ],
)
def test_values_out_of_range_name_their_key_and_value(write, override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(write(MINIMAL), [override])


SCENE = "data: {scenes: [{images: [a.tif], labels: a.gpkg, class_field: kind, class_map: %s}]}\n"
KINDS = "model: {classes: [house, hall]}\n"


def test_a_class_map_takes_text_codes_and_null_and_reads_as_itself(write):
    text = "{villa: house, 12: hall, ruin: null, null: house, 'yes': house}"
    config = load_config(write(KINDS + SCENE % text))
    expected = {"villa": "house", "12": "hall", "ruin": None, "": "house", "yes": "house"}
    assert config.data.scenes[0].class_map == expected
    resolved = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    assert load_config(write(resolved)) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            SCENE % "{villa: flat}",
            r"yaml: data\.scenes\.0\.class_map maps 'villa' to 'flat', which is none of "
            r"model\.classes: house, hall$",
            id="to an unknown class",
        ),
        pytest.param(
            SCENE % "{yes: house}",
            r"data\.scenes\.0\.class_map: YAML reads yes.*, got True; put such keys in quotes$",
            id="a word that YAML takes for a boolean",
        ),
        pytest.param(
            SCENE % "{villa: 3}", r"class_map\.villa: .*valid string, got 3$", id="to a number"
        ),
        pytest.param(
            SCENE.replace("labels: ", "coco: a.json, labels: ") % "{}",
            r"data\.scenes\.0: name either labels or coco, got labels .* and coco a\.json$",
            id="two kinds of labels",
        ),
        pytest.param(
            SCENE.replace("labels: ", "coco: ") % "{}",
            r"data\.scenes\.0: coco says image and class itself; leave out image_field",
            id="a column of COCO annotations",
        ),
        pytest.param(
            SCENE.replace("class_field: kind, ", "") % "{villa: house}",
            r"data\.scenes\.0: class_map maps the values of class_field; name that column$",
            id="of no column",
        ),
        pytest.param(MINIMAL + "model: {classes: [a, a]}", "different ones, got", id="same names"),
        pytest.param(MINIMAL + "model: {classes: ['']}", "have names", id="no name"),
    ],
)
def test_classes_that_do_not_fit_together_are_explained(write, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(write(text if "model" in text else KINDS + text))
    assert "\n" not in str(caught.value)


def test_a_class_map_is_read_from_a_file_of_its_own(write):
    assert load_class_map(write("{villa: house, 12: null}")) == {"villa": "house", "12": None}
    assert load_class_map({12: "hall"}) == {"12": "hall"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[villa]", r"run\.yaml: .*valid dictionary, got \['villa'\]"),
        ("villa: 3", r"run\.yaml: villa: .*valid string, got 3"),
        ("no: house", r"run\.yaml: YAML reads yes"),
    ],
    ids=["a list", "a number", "a boolean"],
)
def test_a_file_that_is_no_class_map_is_explained(write, text, message):
    with pytest.raises(ConfigError, match=message):
        load_class_map(write(text))


def test_overrides_win_over_the_file_and_make_missing_sections(write):
    path = write(MINIMAL + "train: {epochs: 3, seed: 4}\n")
    overrides = ["train.epochs=5", "model.backbone.pretrained=true", "name=mine=yours"]
    config = load_config(path, overrides)
    assert (config.train.epochs, config.train.seed) == (5, 4)
    assert config.model.backbone.pretrained is True
    assert config.name == "mine=yours", "only the first = divides"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epochs", "takes key.key=value, got 'train.epochs'"),
        ("=5", "takes key.key=value"),
        ("train.epochs.more=5", "epochs is a value, not a section"),
        ("train.epoch=5", r"unknown key train\.epoch"),
        ("train.epochs=[1", "--set"),
    ],
)
def test_overrides_that_make_no_sense_are_explained(write, override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(write(MINIMAL + "train: {epochs: 3}\n"), [override])


def test_a_section_left_empty_takes_overrides(write):
    assert load_config(write(MINIMAL + "train:\n"), ["train.epochs=5"]).train.epochs == 5


def test_environment_variables_and_the_files_folder_are_filled_in(write, monkeypatch):
    monkeypatch.setenv("MY_DATA", "/data")
    path = write(MINIMAL + "train: {start_from: $CONFIG_DIR/w.safetensors}\nname: ${MY_DATA}x\n")
    config = load_config(path)
    assert config.name == "/datax"
    assert config.train.start_from == f"{path.resolve().parent}/w.safetensors"


def test_a_variable_that_is_not_set_is_named(write, monkeypatch):
    monkeypatch.delenv("NOT_THERE", raising=False)
    with pytest.raises(
        ConfigError, match=r"uses \$NOT_THERE: set the environment variable NOT_THERE"
    ):
        load_config(write(MINIMAL + "name: $NOT_THERE\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "is not YAML"),
        ("just words", "must hold sections"),
        ("", "must hold sections"),
        ("name: 5 $ a piece", "is not YAML"),
        ("train: {epochs: 3}", "data"),
    ],
    ids=["broken", "no mapping", "empty", "a lone dollar", "no data"],
)
def test_files_that_are_no_configuration_are_explained(write, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(write(text))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read configuration .*none\.yaml: No such file"):
        load_config(tmp_path / "none.yaml")


def test_a_file_that_is_not_text_is_explained(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_bytes(b"\xff\xfe\x00name")
    with pytest.raises(ConfigError, match="is not YAML"):
        load_config(path)


def test_settings_are_frozen(write):
    config = load_config(write(MINIMAL))
    with pytest.raises(ValidationError):
        config.train.epochs = 3
    assert isinstance(config, RunConfig)
