"""The network as a `Detector`: chips in, instances out."""

from __future__ import annotations

import hashlib
import itertools
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from footprints.chip import LOGIT_STEPS, Chip, InputSpec, Instances, MaskGroup, Scaling
from footprints.errors import BandError, ConfigError
from footprints.model.allocator import keep_freed_memory
from footprints.model.checkpoint import WeightsInfo, load_weights
from footprints.model.devices import choose_device, choose_precision
from footprints.model.facts import describe
from footprints.model.mask_rcnn import Dense, MaskRCNN, Prediction
from footprints.tables import table

logger = logging.getLogger(__name__)

DEFAULT_WEIGHTS = Path(__file__).parent.parent / "weights" / "buildings-lite0.safetensors"

CPU_BATCH = 2
"""Chips that go through together on a CPU."""
CPU_LANES = 4
"""Batches that go through side by side on a CPU, about, if it has the cores: a layer's threads wait
for the slowest of them, and other threads of ours make one of them slow. Each lane takes memory."""
COMPILE_FROM = {"cpu": 3000, "cuda": 30000}
"""Chips of a run from which on compiling pays, by device. On two CPU cores it took 18 s and made a
chip of 512 px quicker by 14 ms; on GPUs that is not measured."""
GPU_BATCHES = (16, 8, 4, 2)
"""Numbers of chips that may go through together on a GPU; each divides the one before."""
GPU_SHARE = 0.5
"""Of a GPU's free memory, what chips without buildings may take: boxes and masks take more."""


class _Compiled(NamedTuple):
    """The dense half of a network, compiled when it is first called."""

    shape: tuple[int, ...]
    """(N, bands, H, W) of the batches it is for."""
    dense: Callable[[Tensor], Dense]


class NetworkDetector:
    """A Mask R-CNN with the weights and the settings it was trained with.

    Args:
        model: The network, in evaluation mode.
        info: What its weights file says of itself.
        device: Where to run.
        precision: Of convolutions and products; boxes and coordinates are always float32.
        is_bound: Whether another process, to which the detector is pickled, has to run it on a
            device of this kind; otherwise on the best one that is there.
        compiles: Whether work that it is told to expect makes it compile what has a fixed shape;
            None: where there is enough of it.
    """

    def __init__(
        self,
        model: MaskRCNN,
        info: WeightsInfo,
        device: torch.device,
        precision: torch.dtype = torch.float32,
        *,
        is_bound: bool = True,
        compiles: bool | None = None,
    ) -> None:
        if device.type == "cpu":
            keep_freed_memory()
        self.info = info
        self.device = device
        self.precision = precision
        self._is_bound = is_bound
        self._compiles = compiles
        self._compiled: _Compiled | None = None
        self._model = model.eval().to(device).to(memory_format=torch.channels_last)

    def __repr__(self) -> str:
        spec = self.input_spec
        pixel = "" if spec.gsd_m is None else f"{spec.gsd_m:g} m per pixel, "
        return (
            f"{type(self).__name__}({self.name}: {', '.join(self.classes)}; {spec.bands} bands, "
            f"{pixel}{self.precision} on {self.device})"
        )

    def _repr_html_(self) -> str:
        parameters = sum(each.numel() for each in self._model.state_dict().values())
        rows = [("weights", self.name), *describe(self.info, parameters)]
        rows.append(("runs on", f"{self.device}, in {self.precision}".replace("torch.", "")))
        return table(rows, text=True)

    def __reduce__(self) -> tuple[Callable[..., NetworkDetector], tuple[object, ...]]:
        """Pickled, a detector holds its weights: nobody needs to have their file."""
        weights = {n: tensor.cpu().numpy() for n, tensor in self._model.state_dict().items()}
        # Its number says nothing elsewhere, where a process may be given another one.
        device = self.device.type if self._is_bound else None
        shape = None if self._compiled is None else self._compiled.shape
        return _arrive, (self.info, weights, device, self.precision, shape)

    @property
    def name(self) -> str:
        """What the ``model`` column says."""
        return self.info.name

    @cached_property
    def digest(self) -> str:
        """Of the weights, of what becomes of their scores, and of the precision."""
        content = hashlib.sha256(f"{self.info.model} {self.precision}".encode())
        content.update(str(self.info.calibration).encode())
        for tensor in self._model.state_dict().values():
            content.update(tensor.cpu().contiguous().numpy().tobytes())
        return content.hexdigest()[:16]

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the labels."""
        return self.info.model.classes

    @property
    def keypoints(self) -> tuple[str, ...]:
        """Names of the keypoints, in order; empty for networks without."""
        head = self.info.model.keypoint_head
        return () if head is None else head.names

    @property
    def input_spec(self) -> InputSpec:
        """What the chips must look like."""
        return self.info.input_spec

    @property
    def confidence(self) -> float:
        """Confidence below which a building is not reported, unless the user says otherwise."""
        return self.info.reported_confidence

    @property
    def lanes(self) -> int:
        """How many batches go through side by side: several on a CPU, one on a GPU."""
        threads = torch.get_num_threads()
        return threads // _threads_of_lane(threads) if self.device.type == "cpu" else 1

    @contextmanager
    def open_lanes(self, count: int) -> Iterator[Executor]:
        """Threads that see a batch each and share torch's threads, until the end of the context."""
        threads = torch.get_num_threads()
        lanes = ThreadPoolExecutor(
            count, initializer=torch.set_num_threads, initargs=(max(1, threads // count),)
        )
        try:
            yield lanes
        finally:
            lanes.shutdown(cancel_futures=True)
            # A lane's number is that of threads to come, too.
            torch.set_num_threads(threads)

    def fitting_batch(self, height: int, width: int) -> int:
        """How many chips of so many pixels go through together.

        On a GPU, what fits its free memory by the peak of one chip without buildings.
        """
        if self.device.type != "cuda":
            return CPU_BATCH
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        half = self.precision is not torch.float32
        with torch.inference_mode(), torch.autocast("cuda", self.precision, enabled=half):
            shape = (1, self.info.model.bands, height, width)
            empty = torch.zeros(shape, device=self.device)
            self._model.predict(empty.contiguous(memory_format=torch.channels_last))
        chip = torch.cuda.max_memory_allocated(self.device) - before
        room = GPU_SHARE * torch.cuda.mem_get_info(self.device)[0]
        return next((number for number in GPU_BATCHES if number * chip <= room), 1)

    def expect(self, chips: int, batch: tuple[int, int, int]) -> None:
        """Prepare for work: compile the network, if there is enough of it to pay for that.

        Args:
            chips: How many are to come.
            batch: How many of them go through together, their height and width.
        """
        if self._compiles or (self._compiles is None and self._pays(chips)):
            self._compile((batch[0], self.info.model.bands, *batch[1:]))

    def _pays(self, chips: int) -> bool:
        return chips >= COMPILE_FROM.get(self.device.type, math.inf)

    def _compile(self, shape: tuple[int, ...]) -> None:
        if self._compiled is None or self._compiled.shape != shape:
            logger.info("the network is compiled for batches of %d x %d x %d x %d", *shape)
            dense = torch.compile(self._model.dense, dynamic=False)
            self._compiled = _Compiled(shape, dense)

    def _predict(self, images: Tensor) -> Prediction:
        """Batches of the expected shape by what was compiled, if a compiler is found."""
        compiled = self._compiled
        if compiled is None or images.shape != compiled.shape:
            return self._model.predict(images)
        try:
            return self._model.predict(images, compiled.dense)
        except RuntimeError as err:
            # Compiling has loaded this module, which takes a second.
            if not isinstance(err, torch._dynamo.exc.TorchDynamoException):
                raise
            logger.info("the network is not compiled: %s", " ".join(str(err).splitlines()[:2]))
            self._compiled = None
        return self._model.predict(images)

    def __call__(self, chips: Sequence[Chip]) -> list[Instances]:
        """Detect in a batch of chips of equal shape.

        Raises:
            ConfigError: Something is not a chip.
            BandError: A chip has another number of bands than the weights.
        """
        wanted = self.info.model.bands
        for chip in chips:
            if not isinstance(chip, Chip):
                raise ConfigError(
                    f"a detector sees a list of chips, got {type(chip).__name__} in it; "
                    "fp.chip_at cuts one from a scene, footprints.chip.Chip makes one of an array"
                )
            if len(chip.pixels) != wanted:
                raise BandError(
                    f"the weights take {wanted} bands, {chip.source} gives {len(chip.pixels)}"
                )
        half = self.precision is not torch.float32
        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, self.precision, enabled=half),
        ):
            images = scale_pixels(
                torch.from_numpy(np.stack([_portable(chip.pixels) for chip in chips])),
                torch.from_numpy(np.stack([chip.valid for chip in chips])),
                [chip.scaling for chip in chips],
                self.device,
            )
            found = to_instances(self._predict(images), len(chips))
        cap, calibration = self.info.model.detection.max_per_chip, self.info.calibration
        return [
            replace(
                each,
                scores=each.scores if calibration is None else calibration(each.scores),
                capped=len(each) >= cap,
            )
            for each in found
        ]


def load_detector(
    weights: str | Path | None = None,
    *,
    device: str | torch.device | None = None,
    precision: str | None = None,
    compiles: bool | None = None,
) -> NetworkDetector:
    """Load a detector.

    Args:
        weights: A ``.safetensors`` file of ours; None takes the weights that ship.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``; None takes the best there is.
        precision: ``float32`` or ``bfloat16``; None takes the quicker one on this device.
        compiles: Compile what has a fixed shape before a run; where no compiler is found, it runs
            as it is. None does so for runs that are long enough to pay for it, False never.

    Raises:
        WeightsError: The file is missing, not ours, of a newer version, or damaged.
        DeviceError: The device is not there.
        ConfigError: The precision is unknown.
    """
    chosen = choose_device(device)
    dtype = choose_precision(precision, chosen)
    model, info = load_weights(DEFAULT_WEIGHTS if weights is None else weights)
    is_bound = device is not None and device != "auto"
    logger.info(
        "weights %s on %s in %s, torch %s with %d threads",
        info.name,
        chosen,
        str(dtype).removeprefix("torch."),
        torch.__version__,
        torch.get_num_threads(),
    )
    return NetworkDetector(model, info, chosen, dtype, is_bound=is_bound, compiles=compiles)


def _arrive(
    info: WeightsInfo,
    weights: Mapping[str, NDArray[np.generic]],
    device: str | None,
    precision: torch.dtype,
    compiled_for: tuple[int, ...] | None,
) -> NetworkDetector:
    """A detector that was pickled in another process."""
    model = MaskRCNN(info.model)
    model.load_state_dict({name: torch.from_numpy(values) for name, values in weights.items()})
    detector = NetworkDetector(
        model, info, choose_device(device), precision, is_bound=device is not None
    )
    if compiled_for is not None:
        detector._compile(compiled_for)
    return detector


def _threads_of_lane(threads: int) -> int:
    return max(1, round(threads / CPU_LANES))


def scale_pixels(
    pixels: Tensor, valid: Tensor, scalings: Sequence[Scaling], device: torch.device
) -> Tensor:
    """Pixels as stored to network input, on the device.

    Args:
        pixels: (N, bands, H, W), any type.
        valid: (N, H, W) bool; without data the input is 0, the mean of the training.
        scalings: One per image.
        device: Where to.

    Returns:
        (N, bands, H, W) float32, channels last.
    """
    mean, std = (
        torch.tensor(values, dtype=torch.float32, device=device)[:, :, None, None]
        for values in ([s.mean for s in scalings], [s.std for s in scalings])
    )
    scaled = (pixels.to(device).float() - mean) / std
    scaled = torch.where(valid.to(device).unsqueeze(1), scaled, 0.0)
    return scaled.contiguous(memory_format=torch.channels_last)


def to_instances(prediction: Prediction, count: int) -> list[Instances]:
    """Bring a batch's detections to the CPU: boxes, scores and int8 grids, nothing else.

    Args:
        prediction: Of ``count`` images.
        count: N.

    Returns:
        One `Instances` per image, in order.
    """
    detections, mask_boxes, masks, keypoints = prediction
    boxes = detections.boxes.float().cpu().numpy()
    frames = mask_boxes.float().cpu().numpy()
    scores = detections.scores.float().cpu().numpy()
    labels = detections.labels.cpu().numpy()
    images = detections.image_index.cpu().numpy()
    spots = keypoints.float().cpu().numpy() if keypoints.shape[1] else None
    first = np.searchsorted(images, np.arange(count + 1))
    grids = [(group.members.cpu().numpy(), quantize_logits(group.logits)) for group in masks]
    found = []
    for start, stop in itertools.pairwise(first):
        groups = []
        for index, logits in grids:
            here = (index >= start) & (index < stop)
            if here.any():
                groups.append(MaskGroup(index[here] - start, logits[here]))
        rows = slice(start, stop)
        found.append(
            Instances(
                boxes[rows],
                scores[rows],
                labels[rows],
                frames[rows],
                tuple(groups),
                None if spots is None else spots[rows],
            )
        )
    return found


def quantize_logits(logits: Tensor) -> NDArray[np.int8]:
    """Mask logits to int8, 16 steps a unit, clipped."""
    steps = (logits.float() * LOGIT_STEPS).round().clamp(-127, 127)
    quantized: NDArray[np.int8] = steps.to(torch.int8).cpu().numpy()
    return quantized


def _portable(pixels: NDArray[np.generic]) -> NDArray[np.generic]:
    """Pixels in a type every device computes with; torch has no arithmetic for uint16."""
    if pixels.dtype in (np.uint8, np.int16, np.int32, np.float32):
        return pixels
    return pixels.astype(np.int32 if pixels.dtype == np.uint16 else np.float32)
