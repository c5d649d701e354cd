"""What `suppress` keeps, and that it stops when it has enough."""

import pytest
import torch

from cupola.models.dense.postprocess import Candidates, suppressed
from cupola.ops import nms as nms_module


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("nms", [{}, {"max_num": 7}, {"score_threshold": 0.6}])
def test_a_limit_keeps_the_first_of_all(seed: int, nms: dict[str, float]) -> None:
    random = torch.Generator().manual_seed(seed)
    corner = torch.rand(700, 2, generator=random) * 40
    boxes = torch.cat((corner, corner + 1 + torch.rand(700, 2, generator=random) * 20), 1)
    scores = torch.rand(700, generator=random).mul(50).round() / 50  # with equal ones
    found = Candidates(boxes, scores, torch.randint(3, (700,), generator=random))
    cfg = {"nms": {"type": "nms", "iou_threshold": 0.5, **nms}}
    every, places = suppressed(found, cfg)
    for limit in (0, 1, 5, 40, 10_000):
        some, kept = suppressed(found, {**cfg, "max_per_img": limit})
        assert torch.equal(kept, places[:limit]) and torch.equal(some.boxes, every.boxes[:limit])
        assert torch.equal(some.scores, every.scores[:limit])


def test_no_more_overlaps_are_computed_than_the_limit_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """13,204 classes, as V3Det has, make a million candidates of a hundred proposals."""
    compared = []
    overlaps = nms_module._overlaps

    def counting(*given: torch.Tensor) -> torch.Tensor:
        compared.append(len(given[2]) * len(given[3]))
        return overlaps(*given)

    monkeypatch.setattr(nms_module, "_overlaps", counting)
    corner = torch.arange(10_000.0)[:, None].expand(-1, 2)
    boxes = torch.cat((corner, corner + 0.5), 1)
    found = Candidates(boxes, torch.linspace(1, 0, 10_000), torch.zeros(10_000, dtype=torch.long))
    cfg = {"nms": {"type": "nms", "iou_threshold": 0.5}, "max_per_img": 300}
    assert len(suppressed(found, cfg)[0]) == 300
    assert sum(compared) <= 3 * nms_module.BLOCK**2
