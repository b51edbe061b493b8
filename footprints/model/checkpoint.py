"""Weights files: safetensors with JSON metadata, nothing that could run code.

The metadata holds all that prediction needs: the network's settings and its `InputSpec`. Foreign
weights are never read here.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from footprints.chip import InputSpec, Scaling
from footprints.config import ModelConfig, parse_config
from footprints.errors import OutputError, WeightsError
from footprints.model.mask_rcnn import MaskRCNN

FORMAT_VERSION = 1
_KEY = "footprints"


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
    """Confidence below which a building is not reported, unless the user says otherwise."""
    training: dict[str, Any] = dataclasses.field(default_factory=dict)
    """How and on what it was trained: areas, licences, figures."""


def save_weights(path: str | Path, model: MaskRCNN, info: WeightsInfo) -> None:
    """Write a network in half precision, beside its place and then renamed.

    Raises:
        OutputError: The file cannot be written; an earlier one is left as it was.
    """
    path = Path(path)
    tensors = {
        name: tensor.detach().cpu().contiguous().to(torch.float16)
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
        "training": info.training,
    }
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(save(tensors, {_KEY: json.dumps(header, sort_keys=True)}))
        beside.replace(path)
    except OSError as err:
        beside.unlink(missing_ok=True)
        raise OutputError(f"cannot write weights {path}: {err}") from err


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
            training=header["training"],
        )
    except (AttributeError, KeyError, TypeError, ValueError) as err:
        raise WeightsError(f"{path} has damaged metadata ({err}); get the file again") from err


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
    _read_header(Path(path))
    with safe_open(path, framework="pt") as file:
        given: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    wanted = {n: t for n, t in model.state_dict().items() if t.is_floating_point()}
    wrong = sorted(
        name
        for name in wanted.keys() | given.keys()
        if name not in wanted or name not in given or wanted[name].shape != given[name].shape
    )
    if wrong:
        raise WeightsError(
            f"{path} does not fit its network: {len(wrong)} tensors differ, first {wrong[0]}"
        )
    model.load_state_dict({n: t.float() for n, t in given.items()}, strict=False)


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
