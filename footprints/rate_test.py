"""The learning-rate range test: which rate to train with, from a few dozen steps.

The rate grows by the same factor at every step while the loss is watched: too low, and nothing
happens; too high, and it diverges. Source: arXiv 1506.01186, section 3.3.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from footprints.config import RunConfig
from footprints.data.dataset import collate
from footprints.errors import ConfigError, TrainingError
from footprints.files import write_whole
from footprints.loop import make_optimizer, make_targets
from footprints.model.allocator import keep_freed_memory
from footprints.model.detector import scale_pixels
from footprints.model.devices import choose_device
from footprints.pictures import check_picture
from footprints.preparation import complete, make_network, prepare
from footprints.progress import is_hidden, tqdm

_SMOOTHING = 0.9
"""Weight of what came before in the moving average of the loss."""
_DIVERGED = 4.0
"""The test ends where the smoothed loss is so many times its least value."""
_SETTLING = 5
"""Steps until the moving average says anything."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class RateTest:
    """What a learning-rate range test found."""

    rates: NDArray[np.float64]
    """(n,) learning rate of each step."""
    losses: NDArray[np.float64]
    """(n,) smoothed loss of the same step, before it was taken."""
    suggestion: float | None
    """Rate at which the loss falls most steeply; None where it never fell."""

    def __repr__(self) -> str:
        found = "no suggestion" if self.suggestion is None else f"suggestion {self.suggestion:.2g}"
        tried = f"{len(self.rates)} rates from {self.rates[0]:.2g} to {self.rates[-1]:.2g}"
        return f"RateTest({found}, {tried})"

    def _repr_png_(self) -> bytes:
        # A notebook shows the curve.
        return _draw(self)


def lr_find(
    config: RunConfig,
    *,
    plot: str | Path | None = None,
    lowest: float = 1e-7,
    highest: float = 1.0,
    steps: int = 100,
    overwrite: bool = False,
    progress: bool = True,
) -> RateTest:
    """Try growing learning rates on a configuration's data and network.

    Nothing of it stays: the network is made anew, no run folder is looked at, and the only file
    that is written is the plot.

    Args:
        config: As for `train`; all of the network learns, with its optimiser and batch size.
        plot: PNG of loss against rate; None draws none.
        lowest: Rate of the first step.
        highest: Rate of the last step, if the loss does not diverge before.
        steps: Steps from the one to the other.
        overwrite: Replace ``plot`` if it exists.
        progress: Show a progress bar.

    Returns:
        Rates, losses and a suggestion: the steepest descent, which is where the smoothed loss falls
        fastest with the logarithm of the rate.

    Raises:
        ConfigError: The rates do not ascend from above 0, or there are too few steps.
        TrainingError: There is nothing to learn from, or the loss is no number from the start.
        OutputError: The plot exists or cannot be written; found out before the work starts.
    """
    if not 0 < lowest < highest < np.inf:
        raise ConfigError(f"rates must ascend from above 0, got {lowest:g} to {highest:g}")
    if steps <= _SETTLING:
        raise ConfigError(f"a rate test takes more than {_SETTLING} steps, got {steps}")
    if plot is not None:
        check_picture(plot, overwrite=overwrite)
    rates = np.geomspace(lowest, highest, steps)
    losses = smooth(_descend(complete(config), rates, progress=progress))
    if not len(losses):
        raise TrainingError(
            f"the loss is no number at a learning rate of {lowest:g}; check the imagery for pixels "
            f"that are no numbers, or start lower with --lowest"
        )
    result = RateTest(rates[: len(losses)], losses, suggest(rates[: len(losses)], losses))
    if plot is not None:
        write_whole(Path(plot), _draw(result), "picture")
    return result


def _descend(config: RunConfig, rates: NDArray[np.float64], *, progress: bool) -> list[float]:
    """The loss of each step, until it diverges."""
    keep_freed_memory()
    device = choose_device()
    prepared = prepare(config)
    network = make_network(config).to(device).train()
    optimizer = make_optimizer(network, config.optimizer)
    factors = [group["lr"] / config.optimizer.learning_rate for group in optimizer.param_groups]
    batches = DataLoader(
        prepared.chips,
        batch_size=config.train.batch_size,
        sampler=range(len(rates) * config.train.batch_size),
        collate_fn=collate,
    )
    losses: list[float] = []
    bar = tqdm(batches, desc="rate test", unit="step", disable=is_hidden(progress=progress))
    for rate, batch in zip(rates, bar, strict=True):
        scalings = [prepared.spec.scaling] * len(batch)
        images = scale_pixels(batch.pixels, batch.valid, scalings, device)
        loss = torch.stack(
            list(network.losses(images, make_targets(batch.to(device))).values())
        ).sum()
        losses.append(float(loss.detach()))
        if has_diverged(losses):
            bar.close()
            break
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.optimizer.clip_norm)
        for group, factor in zip(optimizer.param_groups, factors, strict=True):
            group["lr"] = rate * factor
        optimizer.step()
    return losses


def smooth(losses: Sequence[float]) -> NDArray[np.float64]:
    """Exponential moving average of losses, freed of its start at 0, up to the first non-number."""
    finite = np.isfinite(losses)
    count = len(losses) if finite.all() else int(finite.argmin())
    smoothed, average = np.empty(count), 0.0
    for step in range(count):
        average = _SMOOTHING * average + (1 - _SMOOTHING) * losses[step]
        smoothed[step] = average / (1 - _SMOOTHING ** (step + 1))
    return smoothed


def has_diverged(losses: Sequence[float]) -> bool:
    """Whether the last loss is no number, or the smoothed ones have risen far above their least."""
    if not np.isfinite(losses[-1]):
        return True
    smoothed = smooth(losses)
    return len(smoothed) > _SETTLING and bool(smoothed[-1] > _DIVERGED * smoothed.min())


def suggest(rates: NDArray[np.float64], losses: NDArray[np.float64]) -> float | None:
    """The rate of steepest descent, or None where the loss never falls.

    Only up to the least loss: behind it, a curve that diverges can dip once more.

    Args:
        rates: (n,) ascending.
        losses: (n,) smoothed.
    """
    end = int(np.argmin(losses)) + 1
    if end <= _SETTLING + 1:
        return None
    slopes = np.gradient(losses[_SETTLING:end], np.log(rates[_SETTLING:end]))
    steepest = int(np.argmin(slopes))
    return float(rates[_SETTLING + steepest]) if slopes[steepest] < 0 else None


def _draw(result: RateTest) -> bytes:
    """Loss against rate as a PNG, with the suggestion marked."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(result.rates, result.losses)
    axes.set(xscale="log", xlabel="learning rate", ylabel="smoothed loss")
    if result.suggestion is not None:
        axes.axvline(result.suggestion, color="tab:red", label=f"steepest: {result.suggestion:.2g}")
        axes.legend()
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()
