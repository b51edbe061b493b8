"""One training step of a tiny network in one of several processes; see test_processes.py."""

import sys
from pathlib import Path

import torch
from tiny_network import tiny_config, tiny_network
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from footprints.model.mask_rcnn import MaskRCNN
from footprints.model.masks import regular_grid
from footprints.model.pointrend import PointRendHead
from footprints.model.targets import Target

SIDE = 96
BOXES = {
    "many and few": [[(8, 8, 40, 40), (50, 10, 80, 44), (12, 56, 44, 84)], [(20, 30, 64, 60)]],
    "some and none": [[(8, 8, 40, 40), (50, 50, 80, 84)], []],
}
"""Buildings of the image of each process."""


def make_network(head: str) -> torch.nn.Module:
    """A network that draws nothing at random: all anchors, all proposals, points on a grid."""
    every = {"samples": 1_000_000}
    settings = {"rpn": every, "box_head": every, "keypoint_head": {"convs": 1, "width": 8}}
    if head == "fcn":
        settings["mask_head"] = {"kind": "fcn", "convs": 1, "width": 8}
        torch.manual_seed(0)
        return MaskRCNN(tiny_config(**settings))
    PointRendHead.training_points = lambda _, coarse, __: regular_grid(5).expand(
        len(coarse), -1, -1
    )
    return tiny_network(tiny_config(**settings))


def make_image(number: int) -> torch.Tensor:
    return torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(number))


def make_target(boxes: list[tuple[int, ...]]) -> Target:
    frames = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    corners = frames[:, [0, 1, 2, 1, 2, 3, 0, 3]].view(-1, 4, 2)
    return Target(
        boxes=frames,
        labels=torch.zeros(len(boxes), dtype=torch.long),
        masks=torch.full((len(boxes), 112, 112), 255, dtype=torch.uint8),
        mask_boxes=frames,
        keypoints=torch.cat((corners + 0.5, torch.ones(len(boxes), 4, 1)), dim=2),
    )


class Step(torch.nn.Module):
    """The loss as a forward pass, as `DistributedDataParallel` wants it."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor, targets: list[Target]) -> torch.Tensor:
        return torch.stack(list(self.network.losses(images, targets).values())).sum()


def gradients(step: torch.nn.Module, boxes: list, first: int) -> dict[str, torch.Tensor]:
    """Gradients of the images from number ``first`` on."""
    images = torch.stack([make_image(first + i) for i in range(len(boxes))])
    step.train()(images, [make_target(each) for each in boxes]).backward()
    return {
        name.removeprefix("module."): p.grad
        for name, p in step.named_parameters()
        if p.grad is not None
    }


def main() -> None:
    """Take the step of one process and save its gradients."""
    rank, count, place, head, case, output = sys.argv[1:]
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{place}", rank=int(rank), world_size=int(count)
    )
    step = DistributedDataParallel(Step(make_network(head)))
    torch.save(gradients(step, [BOXES[case][int(rank)]], int(rank)), Path(output))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
