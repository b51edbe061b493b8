"""PointRend against the reference implementation's outputs and hand-checked values."""

import numpy as np
import pytest
import torch

from footprints.config import PointRendConfig
from footprints.model.masks import image_points, point_sample, regular_grid
from footprints.model.pointrend import PointRendHead
from footprints.model.roi import RoIFeatures
from footprints.model.sampling import sample_points


def load_head(path) -> tuple[PointRendHead, dict[str, torch.Tensor]]:
    """The mask head that prediction uses, holding every reference weight."""
    arrays = {name: torch.from_numpy(value) for name, value in np.load(path).items()}
    weights = {
        name.removeprefix("weight/"): value.squeeze(-1) if value.dim() == 3 else value
        for name, value in arrays.items()
        if name.startswith("weight/")
    }
    channels = arrays["p2"].shape[1]
    head = PointRendHead(
        channels=channels,
        stride=4,
        num_classes=arrays["coarse_logits"].shape[1],
        config=PointRendConfig(
            coarse_width=64,
            point_width=32,
            subdivision_steps=3,
            subdivision_points=784,
            points_per_side=0,
        ),
    )
    head.load_state_dict(weights, strict=True)
    arrays["flat_boxes"] = arrays["boxes"].flatten(0, 1).float()
    arrays["image_index"] = torch.arange(2).repeat_interleave(6)
    arrays["labels"] = arrays["classes"].flatten().long()
    return head.eval(), arrays


@pytest.fixture(params=["pointrend_k1.npz", "pointrend_k3.npz"])
def reference(request, golden):
    return load_head(golden / request.param)


@torch.no_grad()
def test_coarse_head_equals_reference(reference):
    head, ref = reference
    pooled = head.coarse_head.pool(ref["p2"], 4, ref["flat_boxes"], ref["image_index"])
    torch.testing.assert_close(pooled, ref["pooled"], atol=1e-4, rtol=0)
    torch.testing.assert_close(head.coarse_head(pooled), ref["coarse_logits"], atol=1e-4, rtol=0)


@torch.no_grad()
def test_point_head_equals_reference(reference):
    head, ref = reference
    points = image_points(ref["points"], ref["flat_boxes"])
    fine = sample_points(ref["p2"], 4, points, ref["image_index"])
    torch.testing.assert_close(fine.transpose(1, 2), ref["fine_features"], atol=1e-4, rtol=0)
    projected = head.point_head.project(ref["p2"])
    logits = head.point_logits(
        projected, ref["flat_boxes"], ref["image_index"], ref["coarse_logits"], ref["points"]
    )
    torch.testing.assert_close(logits.transpose(1, 2), ref["point_logits"], atol=1e-4, rtol=0)


@torch.no_grad()
def test_subdivision_equals_reference_at_the_papers_steps(reference):
    head, ref = reference
    (grids,) = head.predict(
        RoIFeatures([ref["p2"]], (4,)), ref["flat_boxes"], ref["image_index"], ref["labels"]
    )
    assert grids.members.tolist() == list(range(12))
    difference = (grids.logits.sigmoid() - ref["mask_probs"][:, 0].float()).abs()
    ties = (difference > 2e-3).flatten(1).sum(dim=1)
    assert ties.max() <= 6, "more cells differ than ties for the last refinement place explain"


@torch.no_grad()
def test_subdivision_with_all_cells_equals_dense_evaluation(reference):
    head, ref = reference
    dense = PointRendHead(
        16,
        4,
        ref["coarse_logits"].shape[1],
        PointRendConfig(
            coarse_width=64,
            point_width=32,
            subdivision_steps=1,
            subdivision_points=56**2,
            points_per_side=0,
        ),
    )
    dense.load_state_dict(head.state_dict())
    where = (ref["flat_boxes"], ref["image_index"])
    (grids,) = dense.predict(RoIFeatures([ref["p2"]], (4,)), *where, ref["labels"])
    grid = regular_grid(56).expand(12, -1, -1)
    every = dense.point_logits(
        dense.point_head.project(ref["p2"]), *where, ref["coarse_logits"], grid
    )
    rows = torch.arange(12)
    torch.testing.assert_close(
        grids.logits, every[rows, :, ref["labels"]].view(12, 56, 56), atol=1e-4, rtol=1e-4
    )


def test_point_sample_golden_values():
    ramp = torch.arange(16.0).view(1, 1, 4, 4)
    points = torch.tensor([[[0.125, 0.125], [0.5, 0.5], [0, 0], [1, 1], [0.3, 0.7]]])
    expected = torch.tensor([0, 7.5, 0, 3.75, 9.9])
    torch.testing.assert_close(point_sample(ramp, points).flatten(), expected)


def test_regular_grid_runs_along_x_first():
    assert regular_grid(2).tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]


def test_fine_features_golden_values():
    ramp = torch.arange(64.0).view(1, 1, 8, 8)
    points = torch.tensor([[[0.5, 0.5], [0, 0], [0.25, 0.75]]])
    where = image_points(points, torch.tensor([[4.0, 8.0, 20.0, 24.0]]))
    sampled = sample_points(ramp, 4, where, torch.zeros(1, dtype=torch.long))
    assert sampled.flatten().tolist() == [30.5, 12.5, 37.5]


def test_features_are_sampled_as_grid_sample_does_with_zeros_beyond_the_border():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3, 5, 7, 9, generator=generator)
    points = torch.rand(4, 50, 2, generator=generator) * torch.tensor([60.0, 50.0]) - 10
    image_index = torch.tensor([2, 0, 1, 2])
    relative = 2 * points / (4 * torch.tensor([9.0, 7.0])) - 1
    expected = torch.nn.functional.grid_sample(
        features[image_index], relative.unsqueeze(2), align_corners=False
    )
    sampled = sample_points(features, 4, points, image_index)
    torch.testing.assert_close(sampled, expected.squeeze(3).transpose(1, 2), atol=1e-5, rtol=1e-4)
