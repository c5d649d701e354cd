"""PointRend: values at points, targets and the refinement of masks, written out."""

from typing import Any

import pytest
import torch
from torch import Tensor

from cupola.models.layers.point_sampling import values_at
from cupola.models.point_rend.points import SimpleRoIAlign, points_of
from cupola.models.point_rend.roi_head import point_targets
from cupola.models.rcnn.sampling import RoISample
from cupola.registry import MODELS, build
from models.rcnn.rcnn_families import FAMILIES


def bilinear(map_: Tensor, x: float, y: float) -> float:
    """A map [h, w] at pixels, 0.5 being the center of the first; 0 outside."""
    total, (h, w) = 0.0, map_.shape
    x, y = x - 0.5, y - 0.5
    left, top = int(x // 1), int(y // 1)
    for i in (top, top + 1):
        for j in (left, left + 1):
            if 0 <= i < h and 0 <= j < w:
                total += (1 - abs(y - i)) * (1 - abs(x - j)) * map_[i, j].item()
    return total


def test_regions_are_sampled_in_the_middle_of_their_cells() -> None:
    torch.manual_seed(0)
    layer: SimpleRoIAlign = MODELS.build(  # type: ignore[assignment]
        {"type": "SimpleRoIAlign", "output_size": (2, 3), "spatial_scale": 0.25}
    )
    x = torch.randn(2, 1, 6, 8)
    rois = torch.tensor([[0.0, 2, 3, 20, 15], [0, 0, 0, 32, 24], [1, 10, 4, 30, 22]])
    found = layer(x, rois)
    assert found.shape == (3, 1, 2, 3)
    for r, (image, left, top, right, bottom) in enumerate(rois.tolist()):
        for i in range(2):
            for j in range(3):
                across = left + (j + 0.5) / 3 * (right - left)
                down = top + (i + 0.5) / 2 * (bottom - top)
                expected = bilinear(x[int(image), 0], across / 4, down / 4)
                assert found[r, 0, i, j].item() == pytest.approx(expected, abs=1e-5)
    assert layer(x, rois[:0]).shape == (0, 1, 2, 3)


def test_targets_are_masks_at_points() -> None:
    torch.manual_seed(0)
    masks = torch.rand(2, 8, 10) > 0.5
    boxes = torch.tensor([[1.0, 1, 7, 6], [2, 0, 9, 8], [0, 0, 3, 3]])
    objects, labels = torch.tensor([1, 0]), torch.tensor([0, 0])
    own = torch.zeros(2, dtype=torch.bool)
    sample = RoISample(boxes, objects, labels, boxes[:2], own)
    points = torch.rand(2, 5, 2)
    found = point_targets([sample], [{"masks": masks}], points)
    for r, owner in enumerate([1, 0]):
        left, top, right, bottom = boxes[r].tolist()
        for p, (x, y) in enumerate(points[r].tolist()):
            place = (left + x * (right - left), top + y * (bottom - top))
            expected = bilinear(masks[owner].float(), *place)
            assert found[r, p].item() == pytest.approx(expected, abs=1e-5)


def test_the_most_uncertain_points_are_predicted_again() -> None:
    torch.manual_seed(0)
    model: Any = build(FAMILIES["point rend"][0])
    head = model.roi_head
    maps = [torch.randn(1, 8, 8, 12), torch.randn(1, 8, 4, 6)]
    rois, labels = torch.tensor([[0.0, 8, 8, 60, 40]]), torch.tensor([2])
    coarse = torch.randn(1, 3, 2, 2)
    found = head.refined(maps, rois, labels, coarse)
    # 20 points cover all of 4x4 in the first step, and 20 of 64 in the second.
    first = torch.nn.functional.interpolate(coarse, scale_factor=2, mode="bilinear")

    def predicted(size: int, place: int) -> float:
        point = points_of(torch.tensor([[place]]), size, size, coarse)
        x, y = 8 + point[0, 0, 0] * 52, 8 + point[0, 0, 1] * 32
        fine = torch.tensor([bilinear(c, x.item() / 8, y.item() / 8) for c in maps[0][0]])
        logits = head.point_head(fine[None, :, None], values_at(coarse, point))
        return logits[0, 2, 0].item()

    first[0, 2] = torch.tensor([predicted(4, i) for i in range(16)]).view(4, 4)
    second = torch.nn.functional.interpolate(first, scale_factor=2, mode="bilinear")[0, 2]
    order = second.flatten().abs().argsort()[:20].tolist()
    expected = second.flatten().tolist()
    for place in order:
        expected[place] = predicted(8, place)
    torch.testing.assert_close(found[0].flatten(), torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_settings_that_are_not_supported_are_named() -> None:
    roi = FAMILIES["point rend"][0]["roi_head"]
    with pytest.raises(ValueError, match="needs a mask_head and a mask_roi_extractor"):
        MODELS.build({k: v for k, v in roi.items() if k != "mask_roi_extractor"})
    with pytest.raises(ValueError, match="CoarseMaskHead has a mask per class"):
        MODELS.build({**roi["mask_head"], "class_agnostic": True})
    with pytest.raises(ValueError, match="aligned=True"):
        MODELS.build({"type": "SimpleRoIAlign", "output_size": 2, "aligned": False})
