"""Where a network runs, and with what precision."""

from __future__ import annotations

import torch

from footprints.errors import ConfigError, DeviceError

_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def choose_precision(precision: str | None, device: torch.device) -> torch.dtype:
    """The precision asked for, or bfloat16 where the device calculates with it, else float32.

    Raises:
        ConfigError: It is unknown.
    """
    if precision is not None:
        if precision not in _PRECISIONS:
            raise ConfigError(
                f"--precision must be one of {', '.join(_PRECISIONS)}, got {precision!r}"
            )
        return _PRECISIONS[precision]
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    else:
        native = False
    return torch.bfloat16 if native else torch.float32


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """The device asked for, or the best there is.

    Raises:
        DeviceError: It is not there.
    """
    if device is None or device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as err:
        # Of an unknown name torch lists twenty that it knows.
        reason = str(err).splitlines()[0].partition("Expected one of")[0] or "no such device"
        raise DeviceError(
            f"device {device!r} is not available ({reason.strip(' .')}); use {_devices()}"
        ) from err
    return chosen


def _devices() -> str:
    """What is there."""
    found = ["cpu"]
    if torch.cuda.is_available():
        found += [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps")
    return " or ".join(found)
