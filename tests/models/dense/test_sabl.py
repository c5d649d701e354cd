"""Buckets of SABL, by hand, and boxes that come back from their targets."""

import pytest
import torch

from cupola.models.sabl import BucketingBBoxCoder
from cupola.registry import MODELS

CODER = BucketingBBoxCoder(num_buckets=6, scale_factor=2.0)
BOX = torch.tensor([[30.0, 20, 60, 40]])  # twice as large: 15..75, 10..50


def test_places_are_in_the_middle_of_buckets() -> None:
    places, width = CODER.places(BOX)
    assert width[0, :, 0].tolist() == pytest.approx([10, 10, 40 / 6, 40 / 6])
    assert places[0, 0].tolist() == [20, 30, 40] and places[0, 1].tolist() == [70, 60, 50]
    assert places[0, 2].tolist() == pytest.approx([10 + 20 / 6, 20, 10 + 100 / 6])
    assert places[0, 3].tolist() == pytest.approx([50 - 20 / 6, 40, 50 - 100 / 6])


def test_targets_of_the_nearest_buckets() -> None:
    found = CODER.encode(BOX, torch.tensor([[27.0, 20, 78, 40]]))
    # Left: 27 is 3 pixels before the second bucket, 7 behind the first, 13 before the third.
    assert found.offsets[0, :3].tolist() == pytest.approx([-0.7, 0.3, 1.3])
    assert found.nearest[0, :3].tolist() == [0, 1, 0]
    assert found.offset_weights[0, :3].tolist() == [1, 1, 0]
    assert found.nearest_weights[0, :3].tolist() == [0, 1, 1]  # the first is a neighbor
    # Right: 78 is beyond the first bucket at 70; the second is further than one width away.
    assert found.offsets[0, 3:6].tolist() == pytest.approx([-0.8, -1.8, -2.8])
    assert found.offset_weights[0, 3:6].tolist() == [1, 0, 0]
    every = BucketingBBoxCoder(6, 2.0, cls_ignore_neighbor=False).encode(BOX, BOX)
    assert every.nearest_weights.all()


def test_boxes_come_back_from_their_targets() -> None:
    torch.manual_seed(0)
    low = torch.rand(20, 2) * 50
    boxes = torch.cat((low, low + 10 + torch.rand(20, 2) * 40), 1)
    targets = boxes + torch.randn(20, 4) * 4
    wanted = CODER.encode(boxes, targets)
    rows = torch.cat((wanted.nearest * 20, wanted.offsets), 1)
    found, confidence = CODER.decode(boxes, rows)
    torch.testing.assert_close(found, targets, rtol=1e-4, atol=1e-3)
    assert (confidence > 0.99).all()
    clipped, _ = CODER.decode(boxes, rows, (30, 40))
    assert clipped[:, 2].max() == 39 and clipped[:, 3].max() == 29 and clipped.min() >= 0


def test_confidence_counts_the_second_bucket_if_it_is_next_to_the_best() -> None:
    scores = [[0.6, 0.3, 0.1], [0.6, 0.1, 0.3], [0.5, 0.26, 0.24], [0.1, 0.2, 0.7]]
    rows = torch.cat((torch.tensor(scores).log().flatten(), torch.zeros(12)))[None]
    confidence = CODER.decode(BOX, rows)[1]
    assert confidence.item() == pytest.approx((0.9 + 0.6 + 0.76 + 0.9) / 4)


def test_sides_from_rows_and_columns() -> None:
    torch.manual_seed(0)
    coder = {"type": "BucketingBBoxCoder", "num_buckets": 6, "scale_factor": 1.7}
    head = MODELS.build(
        {
            "type": "SABLHead",
            "num_classes": 2,
            "cls_in_channels": 4,
            "reg_in_channels": 4,
            "roi_feat_size": 3,
            "reg_pre_num": 0,
            "reg_post_num": 0,
            "cls_out_channels": 8,
            "reg_offset_out_channels": 4,
            "reg_cls_out_channels": 4,
            "bbox_coder": coder,
        }
    )
    x = torch.randn(1, 4, 3, 3)
    logits, sides = head(x)
    assert logits.shape == (1, 3) and sides.shape == (1, 24)
    weight = head.reg_conv_att_x(x)[0, 0].sigmoid()  # [h, w]
    columns = (x[0] * weight / weight.sum(0)).sum(1)  # [C, w]: a mean over the rows
    up = head.upsample_x(columns[None]).relu()[0]  # [C, 6]
    line = head.fc_reg_cls(up.T)[:, 0]
    torch.testing.assert_close(sides[0, :3], line[:3])  # left
    torch.testing.assert_close(sides[0, 3:6], line[3:].flip(0))  # right
    weight = head.reg_conv_att_y(x)[0, 0].sigmoid()
    rows = (x[0] * weight / weight.sum(1, keepdim=True)).sum(2)
    line = head.fc_reg_offset(head.upsample_y(rows[None]).relu()[0].T)[:, 0]
    torch.testing.assert_close(sides[0, 18:21], line[:3])  # offsets of the top
    torch.testing.assert_close(sides[0, 21:], line[3:].flip(0))
    with pytest.raises(Exception, match="num_buckets"):
        MODELS.build({"type": "SABLHead", "num_classes": 2, "roi_feat_size": 4})
