"""Mask R-CNN R50-FPN against torchvision's, with the same weights, from chip to masks.

    python tests/benchmarks/mask_rcnn.py [--sizes 512:300 2048:1000] [--runs 5] [--plain]

Both run their whole line: scaling, trunk, proposals, boxes, masks and what makes them usable, which
is pasting into the picture there and box-local grids here; ours is also timed with outlines traced,
which torchvision does not have. Ours runs in bfloat16, its default on processors that calculate
with it, and in float32; agreement is measured in float32. After the proposal network has done its
work, both go on with the same boxes, of the sizes of the sample scene's buildings. All take turns
in one process, whose memory is limited to what the machine has free.
"""

from __future__ import annotations

import argparse
import ctypes
import math
import re
import resource
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from affine import Affine
from machine import describe
from pointrend import sample_boxes
from torch import Tensor, nn
from torchvision.models.detection import maskrcnn_resnet50_fpn

from footprints.chip import Chip, Instances, Window
from footprints.errors import DetectionCapWarning
from footprints.model.checkpoint import load_weights
from footprints.model.convert import convert_weights
from footprints.model.detector import NetworkDetector
from footprints.model.roi import RoIs
from footprints.vector.trace import trace

PROPOSALS = 1000
LONG_S = 60.0
"""A call of so many seconds needs no other to warm up."""
MEMORY_LEFT = 2 * 2**30
"""For everything else on the machine."""


def main() -> None:
    """Print a table for each size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["512:300", "2048:1000"])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--plain", action="store_true", help="torchvision as it is only")
    options = parser.parse_args()
    warnings.simplefilter("ignore", DetectionCapWarning)
    free = limit_memory()
    for size in options.sizes:
        side, detections = map(int, size.split(":"))
        print(f"\n{side} x {side} px, {detections} detections of {PROPOSALS} proposals\n")
        compare(side, detections, options.runs, plain=options.plain)
    print(f"\n{free / 2**30:.1f} GiB of memory free; {describe('torch', 'torchvision')}")


def compare(side: int, detections: int, runs: int, *, plain: bool) -> None:
    """Time all contenders by turns, ours first."""
    torch.manual_seed(0)
    boxes = sample_boxes(PROPOSALS, side)
    theirs = make_theirs(side, detections)
    ours = make_ours(theirs, detections, boxes)
    half = NetworkDetector(ours._model, ours.info, ours.device, torch.bfloat16)
    share_boxes(theirs, boxes)
    image = torch.randint(0, 256, (3, side, side), dtype=torch.uint8)
    chip = as_chip(image, ours)
    contenders = {
        "ours": lambda: half([chip])[0],
        "ours, and outlines traced": lambda: trace(half([chip])[0]),
        "ours, float32": lambda: ours([chip])[0],
        **ways_of_theirs(theirs, image.float() / 255, plain=plain),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    with torch.inference_mode():
        for _ in range(runs):
            for name, contender in contenders.items():
                # What has run out of memory once is not tried again: it spoils the others' turns.
                lost = math.inf in seconds[name]
                seconds[name].append(math.inf if lost else timed(contender))
        agreement = (
            "out of memory"
            if math.inf in seconds["torchvision"]
            else agree(ours([chip])[0], contenders["torchvision"]())
        )
    print(f"| | s, median of {runs} | times as long as ours |\n|---|---|---|")
    first = statistics.median(seconds["ours"])
    for name, times in seconds.items():
        middle = statistics.median(times)
        ratios = [own / base for own, base in zip(times, seconds["ours"], strict=True)]
        print(
            f"| {name} | out of memory | |"
            if middle == math.inf
            else f"| {name} | {middle:.2f} | {middle / first:.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f}) |"
        )
    print(f"\nagreement with torchvision: {agreement}")


def ways_of_theirs(model: nn.Module, image: Tensor, *, plain: bool) -> dict[str, Callable[[], Any]]:
    """torchvision's model as it is, in channels_last, in half precision, with a compiled trunk."""
    trunk, compiled = model.backbone, torch.compile(model.backbone)

    def run(memory_format: torch.memory_format, backbone: nn.Module) -> dict[str, Tensor]:
        model.backbone = backbone
        model.to(memory_format=memory_format)
        found: list[dict[str, Tensor]] = model([image])
        return found[0]

    ways = {"torchvision": lambda: run(torch.contiguous_format, trunk)}
    if plain:
        return ways
    ways["torchvision, channels_last"] = lambda: run(torch.channels_last, trunk)
    ways["torchvision, channels_last, bfloat16"] = torch.autocast("cpu", torch.bfloat16)(
        lambda: run(torch.channels_last, trunk)
    )
    if shutil.which("g++") or shutil.which("clang++"):
        name = "torchvision, channels_last, backbone compiled"
        ways[name] = lambda: run(torch.channels_last, compiled)
    return ways


def timed(contender: Callable[[], Any]) -> float:
    """Seconds of a second call, of the only one if it is long; infinity where memory runs out."""
    limit_memory()
    try:
        first = _seconds(contender)
        return first if first > LONG_S else _seconds(contender)
    except (MemoryError, RuntimeError) as err:
        require_out_of_memory(err)
    ctypes.CDLL(None).malloc_trim(0)
    return math.inf


def _seconds(contender: Callable[[], Any]) -> float:
    start = time.perf_counter()
    contender()
    return time.perf_counter() - start


def agree(ours: Instances, theirs: dict[str, Tensor]) -> str:
    """How far scores and masks differ, of the detections that both have."""
    boxes, labels = theirs["boxes"].numpy(), theirs["labels"].numpy() - 1
    apart = np.abs(ours.boxes[:, None] - boxes).max(axis=2)
    apart[ours.labels[:, None] != labels] = np.inf
    own = np.flatnonzero(apart.min(axis=1) < 0.01)
    other = apart[own].argmin(axis=1)
    scores = np.abs(ours.scores[own] - theirs["scores"].numpy()[other]).max(initial=0)
    pasted = (theirs["masks"][:, 0] > 0.5).sum((1, 2)).numpy()[other]
    traced = np.array([0.0 if o is None else o.area for o in trace(ours)[own]])
    return (
        f"{len(own)} of {len(boxes)} detections in both; scores differ by at most {scores:.1e}; "
        f"area of our masks {traced.sum() / max(pasted.sum(), 1):.3f} times theirs"
    )


def make_theirs(side: int, detections: int) -> nn.Module:
    """torchvision's model, with random weights that tell boxes apart but leave them in place."""
    model = maskrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        min_size=side,
        max_size=side,
        box_score_thresh=0.05,
        box_detections_per_img=100,
    ).eval()
    heads = model.roi_heads
    with torch.no_grad():
        nn.init.zeros_(heads.box_predictor.bbox_pred.weight)
        nn.init.zeros_(heads.box_predictor.bbox_pred.bias)
        # What random trunks give is nearly the same everywhere; only the differences are kept.
        for layer in (heads.box_predictor.cls_score, heads.mask_predictor.mask_fcn_logits):
            seen: list[Tensor] = []
            hook = layer.register_forward_hook(lambda *call, seen=seen: seen.append(call[2]))
            model([torch.rand(3, side, side)])
            hook.remove()
            others = [axis for axis in range(seen[0].dim()) if axis != 1]
            factor = 2 / seen[0].std(others).mean()
            layer.weight.mul_(factor)
            layer.bias.sub_(seen[0].mean(others)).mul_(factor)
    heads.detections_per_img = detections
    return model


def make_ours(theirs: nn.Module, detections: int, boxes: Tensor) -> NetworkDetector:
    """The same model converted."""
    with tempfile.TemporaryDirectory() as folder:
        torch.save(theirs.state_dict(), Path(folder) / "theirs.pth")
        convert_weights(Path(folder) / "theirs.pth", Path(folder) / "ours.safetensors")
        model, info = load_weights(Path(folder) / "ours.safetensors")
    detection = model.config.detection.model_copy(
        update={"max_per_chip": detections, "score_threshold": 0.05}
    )
    model.config = model.config.model_copy(update={"detection": detection})
    info = replace(info, model=model.config)
    proposals = model.rpn.proposals

    def shared(*arguments: Any) -> RoIs:
        proposals(*arguments)
        return RoIs(boxes, torch.zeros(len(boxes), dtype=torch.long))

    model.rpn.proposals = shared
    return NetworkDetector(model, info, torch.device("cpu"))


def share_boxes(theirs: nn.Module, boxes: Tensor) -> None:
    """Let torchvision's proposal network work for nothing, too."""

    class Shared(nn.Module):
        def __init__(self, rpn: nn.Module) -> None:
            super().__init__()
            self.rpn = rpn

        def forward(self, *arguments: Any) -> tuple[list[Tensor], dict[str, Tensor]]:
            _, losses = self.rpn(*arguments)
            return [boxes], losses

    theirs.rpn = Shared(theirs.rpn)


def as_chip(image: Tensor, detector: NetworkDetector) -> Chip:
    """An image as a chip."""
    side = image.shape[1]
    return Chip(
        pixels=image.numpy(),
        valid=np.ones((side, side), dtype=bool),
        scaling=detector.input_spec.scaling,
        window=Window(0, 0, side, side),
        transform=Affine.identity(),
        crs=None,
        source="random",
    )


def limit_memory() -> int:
    """Have allocations beyond what is free now fail, instead of the machine; bytes that are."""
    free = _kilobytes("/proc/meminfo", "MemAvailable") * 1024 - MEMORY_LEFT
    taken = _kilobytes("/proc/self/status", "VmData") * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (taken + free, resource.RLIM_INFINITY))
    return free


def _kilobytes(path: str, name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path(path).read_text())
    assert found
    return int(found[1])


def require_out_of_memory(err: BaseException) -> None:
    """Any other error is one."""
    if not (isinstance(err, MemoryError) or "allocate memory" in str(err)):
        raise err


if __name__ == "__main__":
    main()
