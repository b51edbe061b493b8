"""Several processes in one run: who we are among them, and what all of them say together.

Without `torch.distributed` at work there is one process, and everything here is the identity.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, distributed

T = TypeVar("T")


def rank_and_count() -> tuple[int, int]:
    """Number of this process, from 0, and how many there are."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def own_weight(count: int | Tensor, device: torch.device) -> Tensor:
    """What this process's mean over its samples has to be multiplied by.

    Gradients are averaged over the processes. With this weight that is the gradient of the mean
    over all samples, wherever they are; without it, a building in a process with few of them would
    count more. Every process has to ask, also one without samples.

    Args:
        count: Samples of this process.
        device: Of the loss.

    Returns:
        Own samples over the mean number of samples; exactly 1 for a single process.
    """
    own = torch.as_tensor(count, dtype=torch.float32, device=device)
    _, processes = rank_and_count()
    if processes == 1:
        return torch.ones_like(own)
    total = own.clone()
    distributed.all_reduce(total)
    return own * processes / total.clamp(min=1)


def holds_anywhere(statement: Tensor) -> bool:
    """Whether a statement (a bool) is true in any process."""
    if rank_and_count()[1] > 1:
        counted = statement.to(torch.int32)
        distributed.all_reduce(counted)
        statement = counted > 0
    return bool(statement)


def gather(own: T) -> list[T]:
    """What every process has, in their order."""
    _, processes = rank_and_count()
    if processes == 1:
        return [own]
    everyone: list[T | None] = [None] * processes
    distributed.all_gather_object(everyone, own)
    return [each for each in everyone if each is not None]
