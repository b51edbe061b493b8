"""Tensors in files of others: the only place where a pickle is opened, and for tensors alone."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from footprints.errors import WeightsError

_UNREADABLE = (
    OSError,
    RuntimeError,
    EOFError,
    UnpicklingError,
    SafetensorError,
    # What the unpickler makes of a file that is none, depending on its bytes.
    LookupError,
    ValueError,
)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors by name, in the file's order, on the CPU.

    Args:
        path: A plain state dict: a ``.safetensors`` file, or one written by ``torch.save``.

    Raises:
        WeightsError: The file is missing, unreadable, or holds more than tensors by name.
    """
    if not path.is_file():
        raise WeightsError(f"weights {path} are missing")
    try:
        if path.suffix == ".safetensors":
            given = load_file(path)
        else:
            given = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as err:
        raise WeightsError(
            f"{path} is not a readable file of tensors ({type(err).__name__}): it is damaged, or "
            f"a pickle of more than tensors; get it again, or save its plain state dict"
        ) from err
    if not isinstance(given, dict) or not all(isinstance(t, Tensor) for t in given.values()):
        raise WeightsError(f"{path} holds more than tensors by name; save a plain state dict")
    return given


def adapt_bands(weight: Tensor, bands: int) -> Tensor:
    """Input filters (O, 3, h, w) for any number of bands: a grey image gives the same response."""
    given = weight.shape[1]
    if weight.dim() != 4 or given == bands:
        return weight
    repeated = weight.repeat(1, -(-bands // given), 1, 1)[:, :bands]
    missing = (weight.sum(dim=1, keepdim=True) - repeated.sum(dim=1, keepdim=True)) / bands
    return repeated + missing
