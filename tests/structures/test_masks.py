"""Run-length encoding equal to pycocotools', boxes of masks, and hostile encodings."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as peer

from cupola.structures import PanopticSegmentation, Segment
from cupola.structures.masks import (
    compress_counts,
    decode_rle,
    decompress_counts,
    encode_rle,
    mask_boxes,
    pad_masks,
)

bitmaps = arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40))


@settings(max_examples=150, deadline=None)
@given(bitmaps)
def test_encoding_is_that_of_pycocotools(mask) -> None:
    ours = encode_rle(mask)
    theirs = peer.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert ours == {"size": theirs["size"], "counts": theirs["counts"].decode()}
    assert np.array_equal(decode_rle(ours), mask)
    assert np.array_equal(decode_rle(theirs), mask)


def test_long_runs_and_lists() -> None:
    mask = torch.zeros(700, 900, dtype=torch.bool)
    mask[100:600, 200:850] = True
    rle = encode_rle(mask)
    assert torch.equal(torch.from_numpy(decode_rle(rle).copy()), mask)
    counts = decompress_counts(rle["counts"]).tolist()
    assert np.array_equal(decode_rle({"size": [700, 900], "counts": counts}), mask.numpy())
    assert compress_counts(counts) == rle["counts"]


def test_an_empty_image_has_one_run() -> None:
    assert decode_rle(
        {"size": [0, 5], "counts": encode_rle(np.zeros((0, 5), bool))["counts"]}
    ).shape == (0, 5)


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        ({"counts": "0"}, "size should be"),
        ({"size": [2, -1], "counts": "0"}, "size should be"),
        ({"size": [10**9, 10**9], "counts": "0"}, "size should be"),
        ({"size": [2, 2], "counts": [3]}, "cover 3 pixels of 2 x 2"),
        ({"size": [2, 2], "counts": [-1, 5]}, "lengths of runs"),
        ({"size": [2, 2], "counts": [10**12]}, "lengths of runs"),
        ({"size": [2, 2], "counts": ["4"]}, "list of integers"),
        ({"size": [2, 2], "counts": None}, "list of integers"),
        ({"size": [2, 2], "counts": "\x00"}, "compressed string"),
        ({"size": [2, 2], "counts": "é中"}, "compressed string"),
        ({"size": [2, 2], "counts": "ooo"}, "compressed string"),
        ({"size": [2, 2], "counts": "oooooooooooo0"}, "impossible length"),
        ({"size": [2, 2], "counts": "O"}, "impossible length"),
        ({"size": [2, 2], "counts": "3"}, "cover 3 pixels"),
    ],
)
def test_what_is_no_encoding_is_refused(rle, message) -> None:
    with pytest.raises(ValueError, match=message):
        decode_rle(rle)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30), st.integers(0, 50), st.integers(0, 50))
def test_any_text_decodes_or_is_refused(text, height, width) -> None:
    try:
        mask = decode_rle({"size": [height, width], "counts": text})
    except ValueError:
        return
    assert mask.shape == (height, width)


def test_boxes_of_masks() -> None:
    masks = torch.zeros(3, 5, 7, dtype=torch.bool)
    masks[0, 1:3, 2:6] = True
    masks[1, 4, 6] = True
    assert mask_boxes(masks).tolist() == [[2, 1, 6, 3], [6, 4, 7, 5], [0, 0, 0, 0]]
    assert mask_boxes(masks[:0]).shape == (0, 4)
    padded = pad_masks(masks, (6, 9))
    assert padded.shape == (3, 6, 9) and int(padded.sum()) == int(masks.sum())


def test_masks_of_segments() -> None:
    ids = torch.tensor([[1002, 1002, 7], [9, 9, 7]], dtype=torch.int32)
    segments = (Segment(1002, 2, True, 0.9, 2), Segment(7, 7, False, 0.8, 2))
    masks = PanopticSegmentation(ids, segments, void=9).masks()
    assert masks.sum((1, 2)).tolist() == [2, 2]
