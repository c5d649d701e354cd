"""Pipelines of transforms, by MMDetection's names.

A transform takes a sample and the sample's own random generator and gives a new sample, or None
where it has rejected the sample: another image is drawn then. The sample: "image", a PIL image in
RGB or a float array [H, W, 3], "boxes" [N, 4] xyxy pixels of it, "labels" [N], "crowd" [N] bool,
perhaps "masks" [N, H, W] bool and "semantic" [H, W], the class of every pixel, and "scale_factor"
(x, y) with respect to the original file. A transform that mixes images has `mix`, which takes a
function that draws another sample.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from cupola.errors import DataError
from cupola.registry import TRANSFORMS, bare_type

Sample = dict[str, Any]
Config = Mapping[str, Any]
Random = np.random.Generator
Draw = Callable[[], Sample]  # another sample
Pair = tuple[float, float]  # the two ends of a range
Source = Callable[[int, Random], Sample]  # another sample, after so many steps of the pipeline
OBJECTS = ("boxes", "labels", "crowd", "masks")
MAPS: tuple[str, ...] = ("masks", "semantic")  # of an image's pixels
VOID = 255  # the class of pixels of "semantic" that do not count

# Steps of published pipelines that the datasets, the model's preprocessor or its batches perform.
for done_elsewhere in (
    *("LoadAnnotations", "LoadPanopticAnnotations", "PackDetInputs", "SegRescale"),
):
    TRANSFORMS.register_module(done_elsewhere)(lambda **_: lambda sample, rng: sample)


def select(sample: Sample, kept: Any) -> Sample:
    """The sample with only those objects that a mask [N] or indices choose."""
    return {**sample, **{key: sample[key][kept] for key in OBJECTS if key in sample}}


class Compose:
    """Applies transforms in order, but not those whose type is in `skipped`."""

    def __init__(self, transforms: Sequence[Config], skipped: Sequence[str] = ()) -> None:
        kept = [cfg for cfg in transforms if bare_type(cfg) not in skipped]
        self.kinds = [bare_type(cfg) for cfg in kept]
        self.transforms = [TRANSFORMS.build(cfg) for cfg in kept]

    def skip(self, kinds: Sequence[str]) -> None:
        """Leaves out the transforms of these types from now on."""
        plain = [kind.rpartition(".")[2] for kind in kinds]
        kept = [number for number, kind in enumerate(self.kinds) if kind not in plain]
        self.transforms = [self.transforms[number] for number in kept]
        self.kinds = [self.kinds[number] for number in kept]

    def __call__(self, sample: Sample, rng: Random) -> Sample:
        """The new sample; a transform that rejects it is not applied."""
        for number in range(len(self.transforms)):
            found = self._step(number, sample, rng, None)
            sample = sample if found is None else found
        return sample

    def run(
        self,
        sample: Sample,
        rng: Random,
        source: Source | None = None,
        count: int | None = None,
        tries: int = 1,
    ) -> Sample | None:
        """The sample after the first `count` transforms (by default all); None if it is rejected.

        Transforms that mix images take others from `source`. One that rejects the sample is tried
        again, `tries` times in all.
        """
        for number in range(len(self.transforms) if count is None else count):
            for _ in range(tries):
                found = self._step(number, sample, rng, source)
                if found is not None:
                    break
            else:
                return None
            sample = found
        return sample

    def _step(
        self, number: int, sample: Sample, rng: Random, source: Source | None
    ) -> Sample | None:
        transform = self.transforms[number]
        found: Sample | None
        if not hasattr(transform, "mix"):
            found = transform(sample, rng)
            return found
        if source is None:
            raise DataError(
                f"{self.kinds[number]} mixes several images of a dataset; it cannot be inside "
                "another transform"
            )
        found = transform.mix(sample, rng, partial(source, number, rng))
        return found


@TRANSFORMS.register_module()
class RandomChoice:
    """One of several pipelines, with equal probability unless `prob` says otherwise."""

    def __init__(
        self, transforms: Sequence[Sequence[Config]], prob: Sequence[float] | None = None
    ) -> None:
        self.pipelines = [Compose(each) for each in transforms]
        self.prob = prob

    def __call__(self, sample: Sample, rng: Random) -> Sample | None:
        chosen = rng.choice(len(self.pipelines), p=self.prob)
        return self.pipelines[chosen].run(sample, rng)


@TRANSFORMS.register_module()
class RandomApply:
    """All of a pipeline with probability `prob`."""

    def __init__(self, transforms: Config | Sequence[Config], prob: float = 0.5) -> None:
        inner = [transforms] if isinstance(transforms, Mapping) else transforms
        self.pipeline, self.prob = Compose(inner), prob

    def __call__(self, sample: Sample, rng: Random) -> Sample | None:
        return sample if rng.random() > self.prob else self.pipeline.run(sample, rng)
