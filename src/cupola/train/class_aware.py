"""The order of an epoch in which every class comes as often, however rare its objects are.

Source: mmdet's ClassAwareSampler (OpenImages; after arXiv 1512.05830).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from cupola.errors import BuildError

CLASS_AWARE = "ClassAwareSampler"


def images_by_class(dataset: Any) -> list[list[int]]:
    """The images that have an object of a class, for every class that an image has."""
    if not hasattr(dataset, "class_labels"):
        kind = type(dataset).__name__
        raise BuildError(f"sampler {CLASS_AWARE}: {kind} does not tell the classes of its images")
    found: dict[int, list[int]] = {}
    for index in range(len(dataset)):
        for label in dataset.class_labels(index):
            found.setdefault(label, []).append(index)
    if not found:
        raise BuildError(f"sampler {CLASS_AWARE}: no image of the data set has an object")
    return [found[label] for label in sorted(found)]


def class_aware_order(
    images: Sequence[Sequence[int]], count: int, per_class: int, generator: torch.Generator
) -> torch.Tensor:
    """`count` indices: one class after the other, each with `per_class` of its images.

    The classes, and the images of each, are shuffled again whenever all of them have come.
    """
    classes = _shuffled_again(range(len(images)), generator)
    draws = [_shuffled_again(each, generator) for each in images]
    found: list[int] = []
    for _ in range(math.ceil(count / per_class)):
        draw = draws[classes()]
        found += [draw() for _ in range(per_class)]
    return torch.tensor(found[:count], dtype=torch.long)


def _shuffled_again(values: Sequence[int], generator: torch.Generator) -> Callable[[], int]:
    """A function that gives one value after the other, in a new order after the last."""
    order = torch.randperm(len(values), generator=generator).tolist()

    def following() -> int:
        if not order:
            order.extend(torch.randperm(len(values), generator=generator).tolist())
        return values[order.pop(0)]

    return following
