"""Weights files: safetensors with JSON metadata, nothing that could run code.

The metadata holds all that prediction needs: the network's settings and its `InputSpec`. Foreign
weights are never read here.
"""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from footprints.calibration import Calibration
from footprints.chip import InputSpec, Scaling
from footprints.config import ModelConfig, parse_config
from footprints.errors import StartWarning, WeightsError
from footprints.files import write_whole
from footprints.model.mask_rcnn import MaskRCNN
from footprints.model.tensor_files import adapt_bands

FORMAT_VERSION = 1
_KEY = "footprints"
_PREDICTOR = "mask_head.point_head.predictor.weight"


@dataclasses.dataclass(frozen=True, slots=True)
class WeightsInfo:
    """What a weights file says of itself."""

    name: str
    """Goes into the ``model`` column of layers."""
    model: ModelConfig
    """The network's settings."""
    input_spec: InputSpec
    """What chips must look like."""
    confidence: float = 0.5
    """Score of the network below which a building is not reported, unless the user says
    otherwise."""
    calibration: Calibration | None = None
    """From its scores to probabilities; None: scores are reported as they are."""
    training: dict[str, Any] = dataclasses.field(default_factory=dict)
    """How and on what it was trained: areas, licences, figures."""

    @property
    def reported_confidence(self) -> float:
        """The least confidence as layers have it: calibrated, where the network is."""
        if self.calibration is None:
            return self.confidence
        return float(self.calibration(np.float32(self.confidence)))


def save_weights(path: str | Path, model: MaskRCNN, info: WeightsInfo) -> None:
    """Write a network in half precision, beside its place and then renamed.

    Vectors stay in single precision: they are few, and the variances that norms divide by can be
    smaller and larger than half precision goes.

    Raises:
        OutputError: The file cannot be written; an earlier one is left as it was.
    """
    path = Path(path)
    tensors = {
        name: tensor.detach()
        .cpu()
        .contiguous()
        .to(torch.float16 if tensor.dim() > 1 else torch.float32)
        for name, tensor in model.state_dict().items()
        if tensor.is_floating_point()
    }
    # Where the trunk once started from is of no use to whoever loads the finished weights.
    backbone = info.model.backbone.model_copy(update={"pretrained": False})
    header = {
        "format_version": FORMAT_VERSION,
        "name": info.name,
        "model": info.model.model_copy(update={"backbone": backbone}).model_dump(mode="json"),
        "input_spec": dataclasses.asdict(info.input_spec),
        "confidence": info.confidence,
        "calibration": info.calibration and dataclasses.asdict(info.calibration),
        "training": info.training,
    }
    write_whole(path, save(tensors, {_KEY: json.dumps(header, sort_keys=True)}), "weights")


def read_info(path: str | Path) -> WeightsInfo:
    """What a weights file says of itself, without loading the weights.

    Raises:
        WeightsError: The file is missing, not ours, or of a newer version.
    """
    header = _read_header(Path(path))
    version = header.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise WeightsError(
            f"{path} has format version {version}, this release reads up to {FORMAT_VERSION}; "
            f"upgrade building-footprints"
        )
    try:
        spec = dict(header["input_spec"])
        scaling = {key: tuple(values) for key, values in spec.pop("scaling").items()}
        ranges = tuple((low, high) for low, high in spec.pop("value_range"))
        return WeightsInfo(
            name=header["name"],
            model=parse_config(ModelConfig, header["model"], origin=str(path)),
            input_spec=InputSpec(scaling=Scaling(**scaling), value_range=ranges, **spec),
            confidence=header["confidence"],
            # Weights of earlier releases have none.
            calibration=Calibration(**given) if (given := header.get("calibration")) else None,
            training=header["training"],
        )
    except (AttributeError, KeyError, TypeError, ValueError) as err:
        raise WeightsError(f"{path} has damaged metadata ({err}); get the file again") from err


def count_parameters(path: str | Path) -> int:
    """Number of the values in a weights file, without loading them.

    Raises:
        WeightsError: The file is missing or not ours.
    """
    _read_header(Path(path))
    with safe_open(path, framework="pt") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118


def load_weights(path: str | Path) -> tuple[MaskRCNN, WeightsInfo]:
    """The network in float32 on the CPU, ready to predict, and what its file says of itself.

    Raises:
        WeightsError: The file is missing, not ours, of a newer version, or damaged.
    """
    info = read_info(path)
    model = MaskRCNN(info.model)
    load_tensors(model, path)
    return model.eval(), info


def load_tensors(model: MaskRCNN, path: str | Path) -> None:
    """Fill a network from a weights file; every tensor must fit.

    Raises:
        WeightsError: The file is missing or not ours; a tensor is missing, left over, or of another
            shape.
    """
    given = _tensors(Path(path))
    if wrong := misfits(model, given):
        raise WeightsError(
            f"{path} does not fit its network: {len(wrong)} tensors differ, first {wrong[0]}"
        )
    model.load_state_dict(given, strict=False)


def start_from(model: MaskRCNN, path: str | Path) -> None:
    """Take over what fits from the weights of a network with other classes, bands or heads.

    The first convolution is adapted to the number of bands. Of a point head for other classes,
    what reads the features is taken over, and what reads the coarse logits starts anew.

    Args:
        model: Its other tensors stay as they are.
        path: A weights file.

    Warns:
        StartWarning: Some tensors start anew; names them.

    Raises:
        WeightsError: The file is missing or not ours, or its trunk and pyramid are others.
    """
    given = _tensors(Path(path))
    wanted = {n: t for n, t in model.state_dict().items() if t.is_floating_point()}
    taken = {n: t for n, t in given.items() if n in wanted and t.shape == wanted[n].shape}
    adapted = _adapted({n: t for n, t in given.items() if n not in taken}, wanted)
    anew = [n for n in wanted if n not in taken and n not in adapted]
    if others := [n for n in anew if n.startswith("backbone.")]:
        raise WeightsError(
            f"cannot start from {path}: its backbone is another, {len(others)} tensors differ, "
            f"first {others[0]}; set model.backbone to what those weights have"
        )
    model.load_state_dict(taken | adapted, strict=False)
    if anew or adapted:
        warnings.warn(
            f"{path}: {len(taken)} tensors are taken over; adapted to other bands or classes: "
            f"{', '.join(adapted) or 'none'}; start anew: {', '.join(anew) or 'none'}",
            StartWarning,
            stacklevel=2,
        )


def _adapted(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors for other bands or classes, of which a part can be taken over."""
    adapted = {}
    first = next(n for n, t in wanted.items() if n.startswith("backbone.trunk.") and t.dim() == 4)
    if first in given:
        adapted[first] = adapt_bands(given[first], wanted[first].shape[1])
    for layer in ("fc1", "fc2", "fc3"):
        name = f"mask_head.point_head.{layer}.weight"
        if name in given and name in wanted:
            # Features first, coarse logits last: one for each row of the predictor.
            old = given[name][:, : -len(given[_PREDICTOR])]
            features = wanted[name].shape[1] - len(wanted[_PREDICTOR])
            if old.shape == (len(wanted[name]), features):
                adapted[name] = torch.cat((old, wanted[name][:, features:]), 1)
    return {n: t for n, t in adapted.items() if t.shape == wanted[n].shape}


def misfits(model: MaskRCNN, tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of tensors that are missing, left over, or of another shape than the network's."""
    wanted = {n: t for n, t in model.state_dict().items() if t.is_floating_point()}
    return sorted(
        name
        for name in wanted.keys() | tensors.keys()
        if name not in wanted or name not in tensors or wanted[name].shape != tensors[name].shape
    )


def _tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a weights file of ours, in single precision."""
    _read_header(path)
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118


def _read_header(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise WeightsError(f"weights {path} are missing")
    if path.suffix != ".safetensors":
        raise WeightsError(
            f"weights must be a .safetensors file of ours, got {path.name}; pickles such as .pth "
            f"can run code and are never loaded"
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as err:
        raise WeightsError(f"{path} is not a readable safetensors file: {err}") from err
    if _KEY not in metadata:
        raise WeightsError(f"{path} was not written by footprints: it has no {_KEY} metadata")
    try:
        header = json.loads(metadata[_KEY])
    except json.JSONDecodeError as err:
        raise WeightsError(f"{path} has damaged metadata ({err}); get the file again") from err
    if not isinstance(header, dict):
        raise WeightsError(f"{path} has damaged metadata; get the file again")
    return header
