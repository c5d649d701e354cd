"""Measures a detector on a dataset: every image is read, resized and padded as in use."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader

TARGETS = ("boxes", "labels", "crowd", "masks", "semantic")
# The names of a sample's values in a batch, where they differ.
PLURALS = {
    "image_id": "image_ids",
    "original_size": "original_sizes",
    "scale_factor": "scale_factors",
}
ANNOTATIONS = ("LoadAnnotations", "LoadPanopticAnnotations")  # they say what truth is read


class _Samples:
    """What a predictor makes of the images of a dataset, and their truth."""

    def __init__(self, predictor: Any, dataset: Any) -> None:
        self.predictor, self.dataset = predictor, dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, dict[str, Any]]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        truth = dict(self.dataset.load(index))
        return self.predictor.sample(truth.pop("image")), truth


def evaluate_images(
    predictor: Any, dataset: Any, metric: Any, workers: int = 0
) -> dict[str, float]:
    """The values of `metric` for a dataset with `load`, as those of images have it.

    `load(index)` gives the image and its truth before any pipeline. Images of one shape run in
    batches. `workers` processes read images ahead, for a model on the CPU.
    """
    metric.reset()
    if hasattr(metric, "use"):
        metric.use(dataset)
    if torch.device(getattr(predictor, "device", "cpu")).type != "cpu":
        workers = 0  # a forked process has no accelerator
    loader: DataLoader[Any] = DataLoader(
        _Samples(predictor, dataset),  # type: ignore[arg-type]
        batch_size=getattr(predictor, "max_batch", 1),
        num_workers=workers,
        collate_fn=list,
        generator=torch.Generator(),
    )
    for entries in loader:
        found = _predictions(predictor, [sample for sample, _ in entries])
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
    return found


def _type(step: Any) -> str:
    return str(step.get("type")).rpartition(".")[2] if isinstance(step, Mapping) else ""
