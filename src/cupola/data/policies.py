"""AutoAugment, RandAugment and RandomOrder, by MMDetection's names.

Sources: mmdet/datasets/transforms/augment_wrappers.py and wrappers.py; AutoAugment is arXiv
1805.09501, for detection 1906.11172, RandAugment 1909.13719.
"""

from collections.abc import Sequence

import numpy as np

from cupola.data.pipeline import Compose, Config, Random, RandomChoice, Sample
from cupola.errors import DataError
from cupola.registry import TRANSFORMS

# (type, prob, level): table 7 of AutoAugment, the policy v0 of detection.
POLICIES = (
    (("Equalize", 0.8, 1), ("ShearY", 0.8, 4)),
    (("Color", 0.4, 9), ("Equalize", 0.6, 3)),
    (("Color", 0.4, 1), ("Rotate", 0.6, 8)),
    (("Solarize", 0.8, 3), ("Equalize", 0.4, 7)),
    (("Solarize", 0.4, 2), ("Solarize", 0.6, 2)),
    (("Color", 0.2, 0), ("Equalize", 0.8, 8)),
    (("Equalize", 0.4, 8), ("SolarizeAdd", 0.8, 3)),
    (("ShearX", 0.2, 9), ("Rotate", 0.6, 8)),
    (("Color", 0.6, 1), ("Equalize", 1.0, 2)),
    (("Invert", 0.4, 9), ("Rotate", 0.6, 0)),
    (("Equalize", 1.0, 9), ("ShearY", 0.6, 3)),
    (("Color", 0.4, 7), ("Equalize", 0.6, 0)),
    (("Posterize", 0.4, 6), ("AutoContrast", 0.4, 7)),
    (("Solarize", 0.6, 8), ("Color", 0.6, 9)),
    (("Solarize", 0.2, 4), ("Rotate", 0.8, 9)),
    (("Rotate", 1.0, 7), ("TranslateY", 0.8, 9)),
    (("ShearX", 0.0, 0), ("Solarize", 0.8, 4)),
    (("ShearY", 0.8, 0), ("Color", 0.6, 4)),
    (("Color", 1.0, 0), ("Rotate", 0.6, 2)),
    (("Equalize", 0.8, 4), ("Equalize", 0.0, 8)),
    (("Equalize", 1.0, 4), ("AutoContrast", 0.6, 2)),
    (("ShearY", 0.4, 7), ("SolarizeAdd", 0.6, 7)),
    (("Posterize", 0.8, 2), ("Solarize", 0.6, 10)),
    (("Solarize", 0.6, 8), ("Equalize", 0.6, 1)),
    (("Color", 0.8, 6), ("Rotate", 0.4, 5)),
)
SPACE = (
    *("AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "SolarizeAdd"),
    *("Color", "Contrast", "Brightness", "Sharpness", "ShearX", "ShearY", "TranslateX"),
    "TranslateY",
)


@TRANSFORMS.register_module()
class AutoAugment(RandomChoice):
    """One of several policies, each a list of transforms; by default those of the paper."""

    def __init__(
        self,
        policies: Sequence[Sequence[Config]] | None = None,
        prob: Sequence[float] | None = None,
    ) -> None:
        if policies is None:
            policies = [
                [{"type": kind, "prob": prob, "level": level} for kind, prob, level in policy]
                for policy in POLICIES
            ]
        if not policies or not all(policies):
            raise DataError("AutoAugment: policies is a list of lists of transforms, none empty")
        super().__init__(policies, prob)


@TRANSFORMS.register_module()
class RandAugment(RandomChoice):
    """`aug_num` different transforms of `aug_space`, one after the other.

    aug_space is a list of lists of one transform each; by default 15 transforms at drawn levels.
    """

    def __init__(
        self,
        aug_space: Sequence[Sequence[Config]] | None = None,
        aug_num: int = 2,
        prob: Sequence[float] | None = None,
    ) -> None:
        space = [[{"type": kind}] for kind in SPACE] if aug_space is None else aug_space
        if not all(isinstance(each, list | tuple) and len(each) == 1 for each in space):
            raise DataError("RandAugment: aug_space is a list of lists of one transform each")
        if not 0 < aug_num <= len(space):
            raise DataError(
                f"RandAugment: aug_num is {aug_num}; expected 1..{len(space)}, the transforms of "
                "aug_space"
            )
        super().__init__(space, prob)
        self.count = aug_num

    def __call__(self, sample: Sample, rng: Random) -> Sample | None:
        found: Sample | None = sample
        for chosen in rng.choice(len(self.pipelines), self.count, replace=False, p=self.prob):
            found = None if found is None else self.pipelines[chosen].run(found, rng)
        return found


@TRANSFORMS.register_module()
class RandomOrder:
    """All of `transforms`, in an order that is drawn."""

    def __init__(self, transforms: Sequence[Config]) -> None:
        self.steps = [Compose([each]) for each in transforms]

    def __call__(self, sample: Sample, rng: Random) -> Sample | None:
        found: Sample | None = sample
        for chosen in rng.permutation(np.arange(len(self.steps))):
            found = None if found is None else self.steps[chosen].run(found, rng)
        return found
