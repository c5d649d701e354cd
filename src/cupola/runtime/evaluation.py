"""Measures a detector on a dataset: every image is read, resized and padded as in use."""

from collections import deque
from collections.abc import Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cupola.errors import InputError

READERS = 1  # thread, beside the model: reading an image changes the filters of warnings a while
TARGETS = ("boxes", "labels", "crowd", "masks", "semantic")
# The names of a sample's values in a batch, where they differ.
PLURALS = {
    "image_id": "image_ids",
    "original_size": "original_sizes",
    "scale_factor": "scale_factors",
}
ANNOTATIONS = ("LoadAnnotations", "LoadPanopticAnnotations")  # they say what truth is read
Entry = tuple[Any, dict[str, Any]]  # a sample as a predictor takes it, and its truth


def _entry(predictor: Any, dataset: Any, index: int) -> Entry:
    truth = dict(dataset.load(index))
    path = dataset.path(index) if hasattr(dataset, "path") else None
    return predictor.sample_at(truth.pop("image"), index, path), truth


def _batches(predictor: Any, dataset: Any) -> Iterator[list[Entry]]:
    """The samples of a dataset in order; a thread reads the images of the next batch ahead."""
    size = getattr(predictor, "max_batch", 1)
    waiting: deque[Future[Entry]] = deque()
    with ThreadPoolExecutor(READERS) as readers:
        for index in range(len(dataset)):
            waiting.append(readers.submit(_entry, predictor, dataset, index))
            if len(waiting) == 2 * size:
                yield [waiting.popleft().result() for _ in range(size)]
        while waiting:
            yield [waiting.popleft().result() for _ in range(min(size, len(waiting)))]


def evaluate_images(
    predictor: Any,
    dataset: Any,
    metric: Any,
    labels: Tensor | None = None,
) -> dict[str, float]:
    """The values of `metric` for a dataset with `load`, as those of images have it.

    `load(index)` gives the image and its truth before any pipeline. Images of one shape run in
    batches. `labels` [C] has the dataset's label for each of the predictor's, -1 for none.
    """
    metric.reset()
    if hasattr(metric, "use"):
        metric.use(dataset)
    for entries in _batches(predictor, dataset):
        found = _predictions(predictor, [sample for sample, _ in entries])
        if labels is not None:
            found = [_relabeled(each, labels) for each in found]
        metric.update(_batch([truth for _, truth in entries]), found)
    values: dict[str, float] = metric.compute()
    return values


def _predictions(predictor: Any, samples: Sequence[Any]) -> list[Any]:
    groups: dict[Hashable, list[int]] = {}
    for index, sample in enumerate(samples):
        groups.setdefault(predictor.bucket(sample), []).append(index)
    found: list[Any] = [None] * len(samples)
    for indices in groups.values():
        answers = predictor.run([samples[index] for index in indices])
        for index, answer in zip(indices, answers, strict=True):
            found[index] = answer
    return found


def named_as(dataset: Any, predictor: Any) -> Tensor | None:
    """The dataset's label for each of the predictor's, -1 for none; None if they are the same.

    Classes are matched by name. InputError if none is.
    """
    have, mine = tuple(getattr(dataset, "names", ())), tuple(predictor.labels)
    if not have or not mine or have == mine:
        return None
    label_of = {name: label for label, name in enumerate(have)}
    found = torch.tensor([label_of.get(name, -1) for name in mine])
    if (found < 0).all():
        raise InputError(
            f"none of the classes of {predictor.name}, {_some(mine)}, is in the data: {_some(have)}"
        )
    return found


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _relabeled(found: Any, labels: Tensor) -> Any:
    """Detections with other labels, without those that have none."""
    known = found.labels < len(labels)
    new = torch.where(known, labels[found.labels.clamp(max=len(labels) - 1)], -1)
    kept = new >= 0
    return replace(found, labels=new).chosen(kept)


def _batch(truths: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The truth of several images as metrics take it."""
    batch: dict[str, Any] = {
        "targets": [
            {key: torch.as_tensor(each[key]) for key in TARGETS if key in each} for each in truths
        ]
    }
    for key in truths[0]:
        if key not in TARGETS:
            batch[PLURALS.get(key, key)] = [each[key] for each in truths]
    return batch


def reads_images(dataset: Any) -> bool:
    """Whether a dataset gives its images as they are, before any pipeline."""
    return hasattr(dataset, "load") and all(map(reads_images, getattr(dataset, "parts", ())))


def as_they_are(cfg: Any) -> Any:
    """A dataset's config without the transforms of its pipeline: what it reads is left."""
    if isinstance(cfg, list | tuple):
        return [as_they_are(each) for each in cfg]
    if not isinstance(cfg, Mapping):
        return cfg
    found = {**cfg, **{k: as_they_are(cfg[k]) for k in ("dataset", "datasets") if k in cfg}}
    if isinstance(cfg.get("pipeline"), list | tuple):
        kept = [step for step in cfg["pipeline"] if _type(step) in ANNOTATIONS]
        found["pipeline"] = kept
    found.pop("proposal_file", None)  # the predictor has it
    return found


def _type(step: Any) -> str:
    return str(step.get("type")).rpartition(".")[2] if isinstance(step, Mapping) else ""
