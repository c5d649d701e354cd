"""The stream of training batches.

The batch of a step depends only on (seed, step), so a resumed run continues where it stopped.
"""

import inspect
import resource
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader

from cupola.data.wrappers import size_of_sample
from cupola.errors import BuildError
from cupola.registry import DATASETS, bare_type
from cupola.train.class_aware import CLASS_AWARE, class_aware_order, images_by_class
from cupola.train.padding import collate_with
from cupola.train.sequences import ParallelSequences, SequenceBatches, is_sequential

BY_ASPECT = "AspectRatioBatchSampler"


def grouped(order: torch.Tensor, portrait: torch.Tensor, batch_size: int) -> torch.Tensor:
    """The order in which a batch has images of one kind only, upright or not, as far as possible.

    order: indices [N]; portrait: whether an image is higher than wide, [N] bool. A batch comes when
    it is full; what is left comes last. Source: mmdet's AspectRatioBatchSampler.
    """
    found: list[int] = []
    open_batches: tuple[list[int], list[int]] = ([], [])
    for index in order.tolist():
        batch = open_batches[int(portrait[index])]
        batch.append(index)
        if len(batch) == batch_size:
            found += batch
            batch.clear()
    return torch.tensor([*found, *open_batches[1], *open_batches[0]], dtype=torch.long)


class EpochBatches:
    """Batch sampler of one epoch for one rank, starting at a given batch."""

    def __init__(
        self, order: torch.Tensor, batch_size: int, first: int, count: int, rank: int, ranks: int
    ) -> None:
        self._order, self._batch_size, self._first, self._count = order, batch_size, first, count
        self._rank, self._ranks = rank, ranks

    def __len__(self) -> int:
        return self._count - self._first

    def __iter__(self) -> Iterator[list[int]]:
        whole = self._batch_size * self._ranks
        for number in range(self._first, self._count):
            start = number * whole + self._rank * self._batch_size
            yield self._order[start : start + self._batch_size].tolist()


class BatchStream:
    """Endless batches of a dataset, reshuffled each epoch.

    `cfg` is a dataloader config: batch_size (of one rank), num_workers, dataset, and
    sampler=dict(shuffle=...), True by default. A last incomplete batch is dropped, unless the
    dataset is smaller than one batch. With batch_sampler=dict(type="AspectRatioBatchSampler")
    images that are higher than wide are in other batches than those that are not. With
    sampler=dict(type="ClassAwareSampler", num_sample_class=1) every class comes as often. With
    sampler=dict(type="SequenceSampler") the batches are those of SequenceBatches. `on_epoch` is
    called with the number of an epoch before its first batch is read.
    """

    def __init__(self, cfg: Mapping[str, Any], seed: int, rank: int = 0, ranks: int = 1) -> None:
        self.dataset = DATASETS.build(cfg["dataset"])
        self.batch_size = min(cfg.get("batch_size", 1), max(1, len(self.dataset) // ranks))
        self.batches_per_epoch = max(1, len(self.dataset) // (self.batch_size * ranks))
        self._workers = cfg.get("num_workers", 0)
        self._shuffle = cfg.get("sampler", {}).get("shuffle", True)
        self._sequential = is_sequential(cfg.get("sampler"))
        self._by_class, self._per_class = self._find_classes(cfg.get("sampler"))
        self._portrait = self._find_portraits(cfg.get("batch_sampler"))
        self._collate = collate_with(self.dataset.collate, cfg.get("padding"))
        self._seed, self._rank, self._ranks = seed, rank, ranks
        self.on_epoch: Callable[[int], None] = lambda epoch: None
        if self._workers:
            allow_open_files()

    def _find_portraits(self, cfg: Any) -> torch.Tensor | None:
        """Which images are higher than wide; None where batches are not grouped by that."""
        if not isinstance(cfg, Mapping) or bare_type(cfg) != BY_ASPECT:
            return None
        sizes = [size_of_sample(self.dataset, index) for index in range(len(self.dataset))]
        if None in sizes:
            return None
        return torch.tensor([size is not None and size[0] < size[1] for size in sizes])

    def _find_classes(self, cfg: Any) -> tuple[list[list[int]] | None, int]:
        """The images of every class and how many come at once, where all classes come as often."""
        if not isinstance(cfg, Mapping) or bare_type(cfg) != CLASS_AWARE:
            return None, 1
        per_class = cfg.get("num_sample_class", 1)
        if not isinstance(per_class, int) or per_class < 1:
            raise BuildError(f"sampler: num_sample_class is {per_class!r}; expected 1 or more")
        return images_by_class(self.dataset), per_class

    def _order(self, epoch: int) -> torch.Tensor:
        order = torch.arange(len(self.dataset))
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
        if self._by_class is not None:
            order = class_aware_order(self._by_class, len(order), self._per_class, generator)
        elif self._shuffle:
            order = torch.randperm(len(self.dataset), generator=generator)
        return order if self._portrait is None else grouped(order, self._portrait, self.batch_size)

    def _sequences(self, first: int) -> DataLoader[Any]:
        return self._loader(
            SequenceBatches(
                self.dataset, self.batch_size, self._seed, first, self._rank, self._ranks
            )
        )

    def _epoch(self, epoch: int, first: int) -> DataLoader[Any]:
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)
        self.on_epoch(epoch)
        batches = EpochBatches(
            self._order(epoch),
            self.batch_size,
            first,
            self.batches_per_epoch,
            self._rank,
            self._ranks,
        )
        return self._loader(batches)

    def _loader(self, batches: Any) -> DataLoader[Any]:
        return DataLoader(
            self.dataset,
            batch_sampler=batches,
            num_workers=self._workers,
            collate_fn=self._collate,
            generator=torch.Generator(),  # otherwise the loader draws from the global one
        )

    def batches(self, position: int) -> Iterator[dict[str, Any]]:
        """Endless batches, starting with number `position` of the run."""
        if self._sequential:
            yield from self._sequences(position)
        epoch, first = divmod(position, self.batches_per_epoch)
        while True:
            yield from self._epoch(epoch, first)
            epoch, first = epoch + 1, 0


def allow_open_files(wanted: int = 65_536) -> None:
    """Raises the soft limit of open files: each tensor that a worker sends is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def evaluation_loader(
    cfg: Mapping[str, Any], dataset: Any = None, evaluator: Any = None
) -> DataLoader[Any]:
    """All batches of a dataset in order, by default in its test mode; the last may be smaller.

    For an `evaluator` (a config, or several) of masks the dataset loads them, as MMDetection's
    metrics read them from the file whatever the pipeline loads.
    A dataset with `sequences` gives the batches of ParallelSequences.
    """
    dataset = (
        DATASETS.build(in_test_mode(cfg["dataset"], evaluator)) if dataset is None else dataset
    )
    size = cfg.get("batch_size", 1)
    sequences = getattr(dataset, "sequences", None)
    batches: dict[str, Any] = {"batch_size": size}
    if sequences is not None:
        batches = {"batch_sampler": ParallelSequences(sequences, size)}
    return DataLoader(
        dataset,
        **batches,
        num_workers=cfg.get("num_workers", 0),
        collate_fn=collate_with(dataset.collate, cfg.get("padding")),
        generator=torch.Generator(),
    )


def in_test_mode(cfg: Any, evaluator: Any = None) -> Any:
    """A dataset's config with test_mode=True where its class takes it and the config is silent.

    With masks, if the evaluator's config (or one of several) measures them.
    """
    if isinstance(cfg, list | tuple):
        return [in_test_mode(each, evaluator) for each in cfg]
    if not isinstance(cfg, Mapping):
        return cfg
    wanted = {"test_mode": True} | ({"with_mask": True} if measures_masks(evaluator) else {})
    inner = {
        key: in_test_mode(cfg[key], evaluator) for key in ("dataset", "datasets") if key in cfg
    }
    own = {key: value for key, value in wanted.items() if key not in cfg and takes(cfg, key)}
    return {**cfg, **own, **inner}


def measures_masks(evaluator: Any) -> bool:
    """Whether an evaluator's config, or one of several, has "segm" in its `metric`."""
    several = evaluator if isinstance(evaluator, list | tuple) else [evaluator]
    kinds = [each.get("metric") for each in several if isinstance(each, Mapping)]
    return any(
        kind == "segm" or (isinstance(kind, list | tuple) and "segm" in kind) for kind in kinds
    )


def takes(cfg: Mapping[str, Any], name: str) -> bool:
    """Whether the class of a dataset's config has a parameter `name`."""
    try:
        return name in inspect.signature(DATASETS.get(str(cfg.get("type")))).parameters
    except (BuildError, TypeError, ValueError):  # its own build will say what is wrong
        return False
