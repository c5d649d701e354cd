"""Epochs in which every class comes as often."""

from typing import Any

import pytest
import torch

from cupola.errors import BuildError
from cupola.registry import DATASETS
from cupola.train.class_aware import class_aware_order, images_by_class
from cupola.train.loading import BatchStream
from cupola.train.sections import without_effect


@DATASETS.register_module()
class RareClass:
    """Twenty images of class 0; the first has class 4, too. The last has no object."""

    def __len__(self) -> int:
        return 21

    def class_labels(self, index: int) -> set[int]:
        return set() if index == 20 else {0, 4} if index == 0 else {0}

    def __getitem__(self, index: int) -> int:
        return index

    collate = staticmethod(torch.tensor)


def stream(**sampler: Any) -> BatchStream:
    about = {"type": "mmdet.ClassAwareSampler", **sampler}
    return BatchStream({"dataset": {"type": "RareClass"}, "batch_size": 3, "sampler": about}, 0)


def test_each_class_comes_as_often() -> None:
    assert images_by_class(RareClass()) == [list(range(20)), [0]]
    batches = stream().batches(0)
    seen = torch.cat([next(batches) for _ in range(14)]).tolist()  # two epochs
    assert 20 not in seen and seen.count(0) >= 20
    assert len(set(seen[:21])) >= 10  # no image of the other class comes again before all have
    again = torch.cat([next(stream().batches(7))]).tolist()
    assert again == seen[21:24] != seen[:3]


def test_the_order_is_the_original_s() -> None:
    # mmdet's ClassAwareSampler with seed 3, num_sample_class 2, and these images of three classes
    images = [[0, 1, 2], [3], [4, 1]]
    order = class_aware_order(images, 10, 2, torch.Generator().manual_seed(3))
    assert order.tolist() == [3, 3, 1, 2, 4, 1, 0, 2, 3, 3]


def test_settings_are_checked() -> None:
    cfg = {"train_dataloader": {"sampler": {"type": "ClassAwareSampler"}}}
    assert without_effect(cfg) == []
    with pytest.raises(BuildError, match="num_sample_class is 0; expected 1 or more"):
        stream(num_sample_class=0)
    with pytest.raises(BuildError, match="list does not tell the classes"):
        images_by_class([1])
    with pytest.raises(BuildError, match="no image of the data set has an object"):
        images_by_class(type("Empty", (RareClass,), {"class_labels": lambda *_: set()})())
