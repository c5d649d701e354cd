"""Datasets made of datasets: repeated, joined, or with rare classes more often.

Source: mmengine's dataset_wrapper.py. Every repetition of a sample is augmented
differently.
"""

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from cupola.data.pipeline import Compose, Config, Random, Sample
from cupola.errors import DataError
from cupola.registry import DATASETS


class _Wrapper:
    """What the wrappers of one or several datasets pass on to them."""

    parts: Sequence[Any]

    def set_pipeline(self, pipeline: Sequence[Config]) -> None:
        """Another pipeline for the samples read from now on."""
        for each in self.parts:
            each.set_pipeline(pipeline)

    def skip_transforms(self, kinds: Sequence[str]) -> None:
        """Leaves out transforms of these types from now on."""
        for each in self.parts:
            each.skip_transforms(kinds)

    def finished(self, sample: Sample) -> dict[str, Any]:
        """A sample of a pipeline with tensors, normalized."""
        found: dict[str, Any] = self.parts[0].finished(sample)
        return found


class _Repeated(_Wrapper):
    """Samples of one dataset, some of them more than once."""

    def __init__(self, dataset: Config, lazy_init: bool = False) -> None:
        self.dataset = DATASETS.build(dataset)
        self.parts = [self.dataset]
        self.collate = self.dataset.collate
        self.epoch = 0
        self.order: Sequence[tuple[int, int]] = ()  # index and number of the repetition
        self.most = 1  # repetitions of a sample
        if hasattr(self.dataset, "names"):
            self.names = self.dataset.names

    def __len__(self) -> int:
        return len(self.order)

    def set_epoch(self, epoch: int) -> None:
        """Changes the random transforms of the samples read from now on."""
        self.epoch = epoch

    def class_labels(self, index: int) -> set[int]:
        """The labels of sample `index`."""
        found: set[int] = self.dataset.class_labels(self.order[index][0])
        return found

    def size(self, index: int) -> tuple[int, int] | None:
        """(width, height) of image `index`, where it is known."""
        return size_of_sample(self.dataset, self.order[index][0])

    def load(self, index: int) -> Sample:
        """Sample `index` before the pipeline of the dataset."""
        found: Sample = self.dataset.load(self.order[index][0])
        return found

    def sample(self, index: int, rng: Random) -> Sample:
        """Sample `index` after the pipeline of the dataset."""
        found: Sample = self.dataset.sample(self.order[index][0], rng)
        return found

    def __getitem__(self, index: int) -> Sample:
        inner, repetition = self.order[index]
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(self.epoch * self.most + repetition)
        sample: Sample = self.dataset[inner]
        return sample


@DATASETS.register_module()
class RepeatDataset(_Repeated):
    """A dataset `times` times in each epoch."""

    def __init__(self, dataset: Config, times: int, lazy_init: bool = False) -> None:
        super().__init__(dataset)
        if times < 1:
            raise DataError(f"RepeatDataset: times is {times}; expected 1 or more")
        self.most = times
        self.order = [(i, n) for n in range(times) for i in range(len(self.dataset))]


@DATASETS.register_module()
class ClassBalancedDataset(_Repeated):
    """Images with rare classes more often: max(1, sqrt(threshold / frequency)) times, rounded up.

    The frequency of a class is the part of the images that have it; an image counts for the rarest
    of its classes. Source: LVIS, arXiv 1908.03195, section B.2.
    """

    def __init__(
        self,
        dataset: Config,
        oversample_thr: float,
        filter_empty_gt: bool = True,
        lazy_init: bool = False,
    ) -> None:
        super().__init__(dataset)
        if not hasattr(self.dataset, "class_labels"):
            kind = type(self.dataset).__name__
            raise DataError(f"ClassBalancedDataset: {kind} does not tell the classes of its images")
        count = len(self.dataset)
        labels = [self.dataset.class_labels(index) for index in range(count)]
        if not filter_empty_gt:  # images without objects are a class of their own
            labels = [found or {-1} for found in labels]
        images = Counter(label for found in labels for label in found)
        factor = {k: max(1.0, math.sqrt(oversample_thr * count / n)) for k, n in images.items()}
        times = [math.ceil(max((factor[k] for k in found), default=1.0)) for found in labels]
        self.most = max(times, default=1)
        self.order = [(index, n) for index, each in enumerate(times) for n in range(each)]


@DATASETS.register_module()
class ConcatDataset(_Wrapper):
    """Several datasets with the same classes, one after the other."""

    def __init__(
        self,
        datasets: Sequence[Config],
        separate_eval: bool = True,
        lazy_init: bool = False,
        ignore_keys: Any = None,
    ) -> None:
        self.parts = self.datasets = [DATASETS.build(each) for each in datasets]
        if not self.datasets:
            raise DataError("ConcatDataset: needs one dataset or more")
        self.collate = self.datasets[0].collate
        self.ends = [*accumulate(len(each) for each in self.datasets)]
        named = [tuple(each.names) for each in self.datasets if hasattr(each, "names")]
        if len(set(named)) > 1:
            raise DataError(f"ConcatDataset: the classes differ: {named[0]} and {_other(named)}")
        if named:
            self.names = named[0]

    def __len__(self) -> int:
        return self.ends[-1]

    def set_epoch(self, epoch: int) -> None:
        """Passes the epoch on to the datasets."""
        for each in self.datasets:
            if hasattr(each, "set_epoch"):
                each.set_epoch(epoch)

    def _place(self, index: int) -> tuple[Any, int]:
        number = bisect_right(self.ends, index)
        return self.datasets[number], index - (self.ends[number - 1] if number else 0)

    def class_labels(self, index: int) -> set[int]:
        """The labels of sample `index`."""
        dataset, inner = self._place(index)
        found: set[int] = dataset.class_labels(inner)
        return found

    def size(self, index: int) -> tuple[int, int] | None:
        """(width, height) of image `index`, where it is known."""
        return size_of_sample(*self._place(index))

    def load(self, index: int) -> Sample:
        """Sample `index` before the pipeline of its dataset."""
        dataset, inner = self._place(index)
        found: Sample = dataset.load(inner)
        return found

    def sample(self, index: int, rng: Random) -> Sample:
        """Sample `index` after the pipeline of its dataset."""
        dataset, inner = self._place(index)
        found: Sample = dataset.sample(inner, rng)
        return found

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        dataset, inner = self._place(index)
        sample: Sample = dataset[inner]
        return sample


@DATASETS.register_module()
class MultiImageMixDataset(_Wrapper):
    """A dataset whose samples are mixed by the transforms of another pipeline.

    Transforms such as Mosaic draw other samples of the dataset, after its own pipeline. One that
    rejects a sample is tried again, `max_refetch` times in all. `skip_type_keys`: types of
    transforms that are left out.
    """

    def __init__(
        self,
        dataset: Config,
        pipeline: Sequence[Config],
        skip_type_keys: Sequence[str] | None = None,
        max_refetch: int = 15,
        seed: int = 0,
        dynamic_scale: Any = None,
        lazy_init: bool = False,
    ) -> None:
        if dynamic_scale is not None:
            raise DataError("MultiImageMixDataset: dynamic_scale is no longer an argument")
        self.dataset = DATASETS.build(dataset)
        if not hasattr(self.dataset, "sample"):
            kind = type(self.dataset).__name__
            raise DataError(f"MultiImageMixDataset: {kind} has no pipeline")
        self.parts, self.collate = [self.dataset], self.dataset.collate
        self.pipeline = Compose(pipeline, skip_type_keys or ())
        self.tries, self.seed, self.epoch = max_refetch, seed, 0
        if hasattr(self.dataset, "names"):
            self.names = self.dataset.names

    def __len__(self) -> int:
        return len(self.dataset)

    def set_epoch(self, epoch: int) -> None:
        """Changes the random transforms of the samples read from now on."""
        self.epoch = epoch

    def set_pipeline(self, pipeline: Sequence[Config]) -> None:
        """Another pipeline of mixing transforms from now on."""
        self.pipeline = Compose(pipeline)

    def skip_transforms(self, kinds: Sequence[str]) -> None:
        """Leaves out transforms of these types from now on, in this pipeline."""
        self.pipeline.skip(kinds)

    def class_labels(self, index: int) -> set[int]:
        """The labels of sample `index`, before it is mixed."""
        found: set[int] = self.dataset.class_labels(index)
        return found

    def sample(self, index: int, rng: Random) -> Sample:
        """Sample `index`, mixed with others."""
        start = self.dataset.sample(index, rng)
        found = self.pipeline.run(start, rng, self._another, tries=self.tries)
        if found is None:
            raise DataError(
                f"MultiImageMixDataset: its pipeline rejected a sample {self.tries} times"
            )
        return found

    def _another(self, count: int, rng: Random) -> Sample:
        found: Sample = self.dataset.sample(int(rng.integers(len(self.dataset))), rng)
        return found

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        rng = np.random.default_rng((self.seed, self.epoch, index))
        return self.finished(self.sample(index, rng))


def size_of_sample(dataset: Any, index: int) -> tuple[int, int] | None:
    """(width, height) of an image of a dataset, before its pipeline; None if it is not known."""
    found: tuple[int, int] | None = dataset.size(index) if hasattr(dataset, "size") else None
    return found


def _other(named: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    return next(each for each in named if each != named[0])
