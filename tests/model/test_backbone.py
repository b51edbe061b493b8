"""Trunks and their pyramid: strides, what is frozen, and where they start from."""

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from footprints.chip import Scaling
from footprints.config import BackboneConfig
from footprints.errors import ConfigError, WeightsError
from footprints.model.backbone import (
    STRIDES,
    C4Backbone,
    PyramidBackbone,
    make_backbone,
    trunk_scaling,
)

TINY = "test_efficientnet"


def make(bands: int = 3, **settings: object) -> PyramidBackbone | C4Backbone:
    torch.manual_seed(0)
    return make_backbone(bands, BackboneConfig(**{"name": TINY, "channels": 8} | settings))


def trunk_state(name: str = TINY, bands: int = 3) -> dict[str, torch.Tensor]:
    """The tensors of a whole classifier, whose trunk is what we want."""
    torch.manual_seed(7)
    return timm.create_model(name, in_chans=bands).state_dict()


def stem_of(backbone: PyramidBackbone) -> torch.Tensor:
    return backbone.trunk.get_submodule("conv_stem").weight


@pytest.mark.parametrize("name", [TINY, "test_resnet", "test_convnext", "tf_efficientnet_lite0"])
def test_pyramid_has_five_levels_with_strides_from_4_to_64(name):
    with torch.no_grad():
        pyramid = make(name=name).eval()(torch.zeros(2, 3, 64, 128))
    assert [tuple(level.shape) for level in pyramid] == [(2, 8, 64 // s, 128 // s) for s in STRIDES]


@pytest.mark.parametrize("neck", ["fpn", "c4"])
@pytest.mark.parametrize(
    ("name", "last", "before"),
    [
        ("resnet18", 512, 256),
        ("resnet34", 512, 256),
        ("resnet50", 2048, 1024),
        ("resnet101", 2048, 1024),
        ("resnext50_32x4d", 2048, 1024),
        ("resnext101_32x8d", 2048, 1024),
        ("resnext101_64x4d.tv_in1k", 2048, 1024),
    ],
)
def test_the_papers_trunks_have_both_necks(name, last, before, neck):
    with torch.device("meta"):
        backbone = make(name=name, neck=neck, frozen_stages=2)
        levels = backbone(torch.zeros(1, 3, 64, 64))
    if neck == "fpn":
        assert [level.shape[-1] for level in levels] == [16, 8, 4, 2, 1]
        assert backbone.fpn.inner_blocks[-1][0].in_channels == last
    else:
        assert (levels[0].shape, backbone.box_channels) == ((1, before, 4, 4), last)
    frozen = {name.split(".")[0] for name, p in backbone.trunk.named_parameters()}
    assert {"conv1", "layer1", "layer2"} <= frozen
    learns = {n for n, p in backbone.named_parameters() if p.requires_grad}
    assert not any(n.startswith(("trunk.conv1", "trunk.layer1")) for n in learns)
    assert any(n.startswith("trunk.layer2") for n in learns)


@pytest.mark.parametrize(
    ("norm", "buffers"), [("none", 0), ("frozen", 4), ("live", 3)], ids=["none", "frozen", "live"]
)
def test_the_pyramid_has_norms_where_asked_for(norm, buffers):
    backbone = make(fpn_norm=norm)
    assert len(list(backbone.fpn.buffers())) == 8 * buffers
    assert (backbone.fpn.inner_blocks[0][0].bias is None) == (norm != "none")


@pytest.mark.parametrize("name", ["resnet50.nonsense", "resnet5"])
def test_unknown_trunks_and_tags_are_refused(name):
    with pytest.raises(ConfigError, match=f"no backbone '{name}'"):
        make(name=name)
    with pytest.raises(ConfigError, match=f"no backbone '{name}'"):
        trunk_scaling(name)


def test_the_scaling_of_a_trunk_is_that_of_its_weights():
    assert trunk_scaling("tf_efficientnet_lite0") == Scaling((127.5,) * 3, (127.5,) * 3)
    assert trunk_scaling("resnet50.tv_in1k").mean == pytest.approx((123.675, 116.28, 103.53))


@pytest.mark.parametrize("bands", [1, 3, 5])
def test_any_number_of_bands_goes_in(bands):
    assert make(bands).eval()(torch.zeros(1, bands, 64, 64))[0].shape == (1, 8, 16, 16)


@pytest.mark.parametrize(
    ("name", "stem", "first", "second"),
    [
        pytest.param(TINY, "conv_stem.", "blocks.0.", "blocks.1.", id="blocks"),
        pytest.param("test_resnet", "conv1.", "layer1.", "layer2.", id="layers"),
        pytest.param("test_convnext", "stem_", "stages_0.", "stages_1.", id="stages"),
        pytest.param("regnety_002", "stem.", "s1.", "s2.", id="short names"),
    ],
)
@pytest.mark.parametrize("count", [0, 1, 2])
def test_frozen_stages_have_no_gradient_and_all_others_have(name, stem, first, second, count):
    backbone = make(name=name, frozen_stages=count).train()
    sum(level.sum() for level in backbone(torch.randn(1, 3, 64, 64))).backward()
    learns = {n: p.grad is not None for n, p in backbone.trunk.named_parameters()}

    def any_learns(part: str) -> list[bool]:
        return sorted({learns[n] for n in learns if n.startswith(part)})

    parts = [any_learns(part) for part in (stem, first, second)]
    assert parts == [[stage >= count] for stage in range(3)]
    assert all(p.grad is not None for p in backbone.fpn.parameters())


def test_frozen_norms_keep_their_statistics_and_affine():
    backbone = make(norm="frozen", frozen_stages=0).train()
    norms = {n: t.clone() for n, t in backbone.trunk.state_dict().items() if "bn" in n}
    assert not any("bn" in name for name, _ in backbone.trunk.named_parameters())
    backbone(torch.randn(2, 3, 64, 64) + 5)
    assert norms
    assert all(
        torch.equal(t, norms[n]) for n, t in backbone.trunk.state_dict().items() if n in norms
    )


def test_live_norms_learn_and_follow_the_images():
    backbone = make(norm="live", frozen_stages=0).train()
    before = backbone.trunk.get_submodule("bn1").running_mean.clone()
    sum(level.sum() for level in backbone(torch.randn(2, 3, 64, 64) + 5)).backward()
    assert not torch.equal(backbone.trunk.get_submodule("bn1").running_mean, before)
    assert backbone.trunk.get_submodule("bn1").weight.grad is not None


@pytest.mark.parametrize("name", [TINY, "test_resnet", "test_convnext"])
@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_a_local_file_of_the_timm_model_fills_the_trunk(tmp_path, name, ending):
    state, path = trunk_state(name), tmp_path / f"trunk{ending}"
    torch.save(state, path) if ending == ".pth" else save_file(state, path)
    trunk = make(name=name, pretrained=str(path)).trunk.state_dict()
    plain = {key.replace("_", "."): tensor for key, tensor in state.items()}
    assert all(torch.equal(t, plain[n.replace("_", ".")]) for n, t in trunk.items())


def test_a_pth_with_other_names_fills_the_trunk_in_order(tmp_path):
    state, path = trunk_state(), tmp_path / "trunk.pth"
    others = {f"module{i}.{n.rsplit('.')[-1]}": t for i, (n, t) in enumerate(state.items())}
    torch.save(others, path)
    trunk = make(pretrained=str(path)).trunk.state_dict()
    assert all(torch.equal(t, state[n]) for n, t in trunk.items())


def test_safetensors_with_other_names_are_refused_because_they_keep_no_order(tmp_path):
    path = tmp_path / "trunk.safetensors"
    save_file({f"module{i}": t for i, t in enumerate(trunk_state().values())}, path)
    with pytest.raises(WeightsError, match=r"keeps no order to go by; give a \.pth file"):
        make(pretrained=str(path))


def without_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {str(i): t for i, (n, t) in enumerate(state.items()) if "num_batches" not in n}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(
            dict(list(without_names(trunk_state()).items())[:9]),
            r"holds 9 tensors, the trunk \d+",
            id="too few tensors",
        ),
        pytest.param(
            without_names(trunk_state("test_resnet")),
            r"does not fit: conv_stem\.weight is \(\d+, 3, 3, 3\), got",
            id="another trunk",
        ),
        pytest.param({"state_dict": trunk_state()}, "plain state dict", id="nested"),
        pytest.param([1, 2], "plain state dict", id="a list"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, content, message):
    path = tmp_path / "trunk.pth"
    torch.save(content, path)
    with pytest.raises(WeightsError, match=message):
        make(pretrained=str(path))


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_a_damaged_file_is_refused(tmp_path, ending):
    path = tmp_path / f"trunk{ending}"
    path.write_bytes(b"no tensors at all")
    with pytest.raises(WeightsError, match="not a readable file of tensors"):
        make(pretrained=str(path))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"nothing\.pth are missing"):
        make(pretrained=str(tmp_path / "nothing.pth"))


class Payload:
    """A pickle that would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return np.save, (self.path, np.zeros(1))


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path):
    torch.save(Payload(str(tmp_path / "ran.npy")), tmp_path / "trunk.pth")
    with pytest.raises(WeightsError, match="not a readable file of tensors"):
        make(pretrained=str(tmp_path / "trunk.pth"))
    assert not (tmp_path / "ran.npy").exists()


@pytest.mark.parametrize("bands", [1, 2, 5])
def test_filters_of_three_bands_respond_alike_to_a_grey_image_of_any_bands(tmp_path, bands):
    state, path = trunk_state(), tmp_path / "trunk.pth"
    torch.save(state, path)
    stem = stem_of(make(bands, pretrained=str(path)))
    assert stem.shape[1] == bands
    torch.testing.assert_close(stem.sum(dim=1), state["conv_stem.weight"].sum(dim=1))


@pytest.mark.parametrize("name", ["no_such_net", "resnet*"])
def test_an_unknown_backbone_is_named(name):
    with pytest.raises(ConfigError, match="timm has no backbone"):
        make(name=name)


def test_a_backbone_with_other_strides_is_refused():
    with pytest.raises(ConfigError, match=r"test_vit has strides .* needed are \(4, 8, 16, 32\)"):
        make(name="test_vit")


def test_a_backbone_whose_stages_are_unknown_is_not_silently_left_unfrozen():
    with pytest.raises(ConfigError, match="set frozen_stages to 0"):
        make(name="densenet121", frozen_stages=1)


def test_c4_has_one_level_and_leaves_the_last_stage_to_the_heads():
    backbone = make(name="test_resnet", neck="c4").eval()
    whole = timm.create_model("test_resnet", num_classes=0, global_pool="")
    whole.load_state_dict(
        {
            **backbone.trunk.state_dict(),
            **{f"layer4.{n}": t for n, t in backbone.tail.state_dict().items()},
        },
        strict=False,
    )
    images = torch.randn(1, 3, 64, 128)
    with torch.no_grad():
        (level,) = backbone(images)
        assert level.shape == (1, backbone.channels, 4, 8)
        features = backbone.box_features([level])
        assert features.strides == (16,)
        end = features.tail(level)
        torch.testing.assert_close(end, whole.eval()(images))
    assert end.shape[1:] == (backbone.box_channels, 2, 4)
    assert [backbone.box_side(side) for side in (7, 14)] == [4, 7]


def test_c4_needs_a_resnet():
    with pytest.raises(ConfigError, match="is no ResNet, which neck c4 needs"):
        make(neck="c4")


@pytest.mark.parametrize("count", [1, 2])
def test_stages_of_c4_freeze_from_the_stem_on(count):
    backbone = make(name="test_resnet", neck="c4", frozen_stages=count)
    for stage, name in enumerate(("conv1", "layer1", "layer2")):
        parts = backbone.trunk.get_submodule(name).parameters()
        assert {p.requires_grad for p in parts} == {stage >= count}
    assert all(p.requires_grad for p in backbone.tail.parameters())
