"""Non-maximum suppression against plain loops."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cupola.ops import nms as module
from cupola.ops.nms import nms, soft_nms


def random_boxes(count: int, seed: int, side: float = 60.0) -> tuple[Tensor, Tensor, Tensor]:
    """Overlapping boxes, scores of which some are equal, and three groups."""
    draw = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=draw) * 100
    size = torch.rand(count, 2, generator=draw) * side
    scores = (torch.rand(count, generator=draw) * 20).round() / 20
    groups = torch.randint(3, (count,), generator=draw)
    return torch.cat((corner, corner + size), 1), scores, groups


def overlap(a: list[float], b: list[float]) -> float:
    width, height = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    if width <= 0 or height <= 0:
        return 0.0
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return width * height / (areas - width * height)


def by_loops(boxes: Tensor, scores: Tensor, threshold: float, groups: Tensor) -> list[int]:
    kept: list[int] = []
    for i in scores.argsort(descending=True, stable=True).tolist():
        if all(
            groups[i] != groups[j] or overlap(boxes[i].tolist(), boxes[j].tolist()) <= threshold
            for j in kept
        ):
            kept.append(i)
    return kept


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 60), st.integers(0, 10_000), st.sampled_from([0.1, 0.5, 0.7]))
def test_equals_plain_loops(count: int, seed: int, threshold: float) -> None:
    boxes, scores, groups = random_boxes(count, seed)
    one = torch.zeros_like(groups)
    assert nms(boxes, scores, threshold).tolist() == by_loops(boxes, scores, threshold, one)
    grouped = by_loops(boxes, scores, threshold, groups)
    assert nms(boxes, scores, threshold, groups).tolist() == grouped
    assert nms(boxes, scores, threshold, groups, max_num=5).tolist() == grouped[:5]


@pytest.mark.parametrize("block", [1, 4, 17])
def test_blocks_do_not_change_the_result(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    boxes, scores, groups = random_boxes(80, 3)
    expected = nms(boxes, scores, 0.4, groups)
    monkeypatch.setattr(module, "BLOCK", block)
    assert torch.equal(nms(boxes, scores, 0.4, groups), expected)
    assert torch.equal(nms(boxes, scores, 0.4, groups, max_num=7), expected[:7])


def test_a_dropped_box_suppresses_nothing() -> None:
    """A chain of boxes, each overlapping only its neighbors: every other one is kept."""
    left = torch.arange(9.0) * 3
    boxes = torch.stack((left, torch.zeros(9), left + 8, torch.ones(9)), 1)
    scores = torch.linspace(0.9, 0.1, 9)
    assert nms(boxes, scores, 0.3).tolist() == [0, 2, 4, 6, 8]


def soft_by_loops(
    boxes: Tensor, scores: Tensor, groups: Tensor, method: str, minimum: float
) -> dict[int, float]:
    left = {i: float(score) for i, score in enumerate(scores)}
    chosen: dict[int, float] = {}
    while left:
        best = max(left, key=lambda i: (left[i], -i))
        chosen[best] = left.pop(best)
        for i in list(left):
            same = bool(groups[i] == groups[best])
            o = overlap(boxes[i].tolist(), boxes[best].tolist()) if same else 0.0
            if method == "gaussian":
                left[i] *= math.exp(-o * o / 0.5)
            elif o >= 0.3:
                left[i] *= 1 - o if method == "linear" else 0
            if left[i] < minimum:
                del left[i]
    return chosen


@pytest.mark.parametrize("method", ["linear", "gaussian", "naive"])
@pytest.mark.parametrize("seed", range(5))
def test_soft_suppression_by_plain_loops(method: str, seed: int) -> None:
    boxes, scores, groups = random_boxes(30, seed)
    scores = scores + torch.rand(30, generator=torch.Generator().manual_seed(seed)) * 0.01
    boxes, scores = boxes.double(), scores.double()
    keep, lowered = soft_nms(boxes, scores, groups=groups, method=method, min_score=0.05)
    expected = soft_by_loops(boxes, scores, groups, method, 0.05)
    assert keep.tolist() == list(expected)
    assert lowered.tolist() == pytest.approx(list(expected.values()), rel=1e-9)


def test_naive_soft_suppression_is_the_hard_one() -> None:
    boxes, scores, groups = random_boxes(40, 1)
    scores = scores + torch.arange(40) * 1e-4
    keep, same = soft_nms(boxes, scores, 0.5, groups, method="naive")
    assert torch.equal(keep, nms(boxes, scores, 0.5, groups))
    assert torch.equal(same, scores[keep])


def test_nothing_to_suppress() -> None:
    empty = torch.zeros(0, 4), torch.zeros(0)
    assert nms(*empty, 0.5).shape == (0,)
    keep, scores = soft_nms(*empty)
    assert (keep.shape, keep.dtype, scores.shape) == ((0,), torch.int64, (0,))


def test_an_unknown_method_is_an_error() -> None:
    with pytest.raises(ValueError, match="'linear', 'gaussian' or 'naive', got 'hard'"):
        soft_nms(torch.zeros(1, 4), torch.zeros(1), method="hard")


def without_ties(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """The order of equal scores in an exported graph is that of its runtime."""
    boxes, scores, groups = random_boxes(50, seed)
    return boxes, scores + torch.arange(50) * 1e-4, groups


class Suppression(torch.nn.Module):
    def forward(self, boxes: Tensor, scores: Tensor, groups: Tensor) -> Tensor:
        return nms(boxes, scores, 0.4, groups)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_export() -> None:
    program = torch.export.export(Suppression().eval(), without_ties(0))
    for seed in range(3):
        other = without_ties(seed)
        assert torch.equal(program.module()(*other), Suppression()(*other))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_onnx(tmp_path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    path = tmp_path / "nms.onnx"
    torch.onnx.export(Suppression().eval(), without_ties(0), str(path), dynamo=True, verbose=False)
    session = runtime.InferenceSession(path)
    names = [each.name for each in session.get_inputs()]
    for seed in range(3):
        other = without_ties(seed)
        (keep,) = session.run(None, {n: t.numpy() for n, t in zip(names, other, strict=True)})
        assert keep.tolist() == Suppression()(*other).tolist()
