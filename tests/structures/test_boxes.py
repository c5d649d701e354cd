"""Properties of the box functions."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from cupola.structures import boxes as box_ops
from cupola.structures import pad_images

SIDE = st.floats(0.125, 100, width=32)
BOX = st.tuples(SIDE, SIDE, SIDE, SIDE).map(lambda b: torch.tensor(b))


@given(BOX)
def test_the_two_forms_are_inverse(box: torch.Tensor) -> None:
    back = box_ops.xyxy_to_cxcywh(box_ops.cxcywh_to_xyxy(box))
    torch.testing.assert_close(back, box, rtol=1e-4, atol=1e-3)


@given(BOX, BOX)
def test_giou_is_symmetric_and_never_above_iou(a: torch.Tensor, b: torch.Tensor) -> None:
    a, b = box_ops.cxcywh_to_xyxy(a), box_ops.cxcywh_to_xyxy(b)
    generalized, plain = box_ops.giou(a, b), box_ops.iou(a, b)
    torch.testing.assert_close(generalized, box_ops.giou(b, a))
    assert -1.001 <= generalized <= plain + 1e-5 <= 1.001


def test_pairwise_iou_is_iou_of_all_pairs() -> None:
    draw = torch.Generator().manual_seed(0)
    corner, side = torch.rand(2, 7, 2, generator=draw), torch.rand(2, 7, 2, generator=draw)
    a, b = torch.cat((corner, corner + side), -1)
    pairs = box_ops.iou(a[:, None], b[None, :4])
    torch.testing.assert_close(box_ops.pairwise_iou(a, b[:4]), pairs)


@given(BOX)
def test_a_box_overlaps_itself_fully(box: torch.Tensor) -> None:
    corners = box_ops.cxcywh_to_xyxy(box)
    torch.testing.assert_close(box_ops.giou(corners, corners), torch.tensor(1.0), rtol=0, atol=1e-2)


def test_equal_sizes_need_no_mask_and_others_get_one() -> None:
    assert pad_images([torch.ones(3, 4, 5)] * 2).padding_mask is None
    batch = pad_images([torch.ones(3, 4, 5), torch.ones(3, 6, 2)], divisor=4)
    assert batch.pixels.shape == (2, 3, 8, 8)
    assert batch.padding_mask is not None
    assert (~batch.padding_mask).sum(dim=(1, 2)).tolist() == [20, 12]
    assert batch.pixels.sum(dim=(1, 2, 3)).tolist() == [60, 36]
