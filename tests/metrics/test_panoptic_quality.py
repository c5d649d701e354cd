"""Panoptic quality against a direct transcription of its definition, and its rules one by one."""

from collections import defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cupola.errors import DataError
from cupola.metrics import PanopticQuality
from cupola.structures import (
    Detections,
    PanopticSegmentation,
    PanopticTruth,
    Segment,
    TrueSegment,
)


def truth_of(ids, labels, crowds=()) -> PanopticTruth:
    segments = (TrueSegment(k, v, v < 2, k in crowds) for k, v in labels.items())
    return PanopticTruth(np.array(ids), tuple(segments))


def found_of(ids, labels) -> PanopticSegmentation:
    tensor = torch.tensor(ids, dtype=torch.int32)
    segments = (
        Segment(k, v, v < 2, 1.0, int((tensor == k).sum()))
        for k, v in labels.items()
        if (tensor == k).any()
    )
    return PanopticSegmentation(tensor, tuple(segments), void=-1)


def score(truth, found) -> dict[str, float]:
    metric = PanopticQuality()
    metric.add(truth, found)
    return metric.compute()


def definition(truth, found) -> float:
    """PQ of one image by sets of pixels, as in the paper, section 4.1 and 4.2."""
    ids = found.ids.numpy()
    real = {s.id: truth.ids == s.id for s in truth.segments}
    void = ~np.isin(truth.ids, list(real))
    mine = {s.id: ids == s.id for s in found.segments}
    sums, tp, fp, fn = (defaultdict(float) for _ in range(4))
    matched_true, matched_mine = set(), set()
    for s in truth.segments:
        for f in found.segments:
            if s.crowd or s.label != f.label:
                continue
            a, b = real[s.id], mine[f.id] & ~void
            iou = (a & b).sum() / (a | b).sum()
            if iou > 0.5:
                sums[s.label] += iou
                tp[s.label] += 1
                matched_true.add(s.id)
                matched_mine.add(f.id)
    for s in truth.segments:
        if not s.crowd and s.id not in matched_true:
            fn[s.label] += 1
    for f in found.segments:
        ignored = void.copy()
        for s in truth.segments:
            if s.crowd and s.label == f.label:
                ignored |= real[s.id]
        if f.id not in matched_mine and (mine[f.id] & ignored).sum() <= 0.5 * mine[f.id].sum():
            fp[f.label] += 1
    labels = set(tp) | set(fp) | set(fn)
    rows = [sums[k] / (tp[k] + (fp[k] + fn[k]) / 2) for k in labels]
    return float(np.mean(rows)) if rows else 0.0


grids = st.lists(st.lists(st.integers(0, 4), min_size=6, max_size=6), min_size=5, max_size=5)
classes = st.fixed_dictionaries({k: st.integers(0, 3) for k in range(1, 5)})


@settings(max_examples=300, deadline=None)
@given(grids, classes, grids, classes, st.sets(st.integers(1, 4), max_size=1))
def test_it_is_the_definition(true_ids, true_labels, ids, labels, crowds) -> None:
    present = {k: v for k, v in true_labels.items() if any(k in row for row in true_ids)}
    truth, found = truth_of(true_ids, present, crowds), found_of(ids, labels)
    assert score(truth, found)["PQ"] == pytest.approx(definition(truth, found))


def test_a_perfect_segmentation_is_1() -> None:
    ids = [[1, 1, 2], [3, 3, 2]]
    labels = {1: 0, 2: 0, 3: 2}
    scores = score(truth_of(ids, labels), found_of(ids, labels))
    assert set(scores.values()) == {1.0} and len(scores) == 9


def test_things_and_stuff_are_averaged_apart() -> None:
    truth = truth_of([[1, 1, 3, 3]], {1: 0, 3: 2})
    scores = score(truth, found_of([[1, 1, 0, 0]], {1: 0}))
    assert (scores["PQ"], scores["PQ_th"], scores["PQ_st"]) == (0.5, 1.0, 0.0)


def test_without_images_or_segmentations_there_is_no_score() -> None:
    with pytest.raises(DataError, match="at least one image"):
        PanopticQuality().compute()
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(DataError, match="panoptic_on"):
        PanopticQuality().update({"panoptic": [truth_of([[1]], {1: 0})]}, [nothing])
    with pytest.raises(DataError, match="pixels"):
        score(truth_of([[1]], {1: 0}), found_of([[1, 1]], {1: 0}))
