"""Proposals of a file along a pipeline, for training a Fast R-CNN.

A dataset with a `proposal_file` puts them into its samples: "proposals" [R, 4], xyxy in pixels of
the image, best first. Source: mmdet/datasets/transforms/{loading,wrappers}.py.
"""

from collections.abc import Sequence

import numpy as np

from cupola.data.pipeline import Compose, Config, Random, Sample
from cupola.errors import DataError
from cupola.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadProposals:
    """Keeps the first `num_max_proposals` of an image's proposals, by default all."""

    def __init__(self, num_max_proposals: int | None = None) -> None:
        if num_max_proposals is not None and num_max_proposals < 1:
            raise DataError(
                f"LoadProposals: num_max_proposals is {num_max_proposals}; expected 1 or more"
            )
        self.most = num_max_proposals

    def __call__(self, sample: Sample, rng: Random) -> Sample:
        if "proposals" not in sample:
            raise DataError("LoadProposals: the dataset needs a proposal_file")
        return {**sample, "proposals": sample["proposals"][: self.most]}


@TRANSFORMS.register_module()
class ProposalBroadcaster:
    """A pipeline that moves an image's proposals as it moves its objects.

    It runs a second time with the proposals as objects and the same random numbers.
    """

    def __init__(self, transforms: Sequence[Config] = ()) -> None:
        self.pipeline = Compose(transforms)

    def __call__(self, sample: Sample, rng: Random) -> Sample | None:
        if "proposals" not in sample:
            raise DataError("ProposalBroadcaster: needs LoadProposals before it")
        before = rng.bit_generator.state
        found = self.pipeline.run(sample, rng)
        after = rng.bit_generator.state
        rng.bit_generator.state = before
        moved = self.pipeline.run(_with_proposals_as_objects(sample), rng)
        rng.bit_generator.state = after
        if found is None or moved is None:
            return None
        return {**found, "proposals": moved["boxes"]}


def _with_proposals_as_objects(sample: Sample) -> Sample:
    count = len(sample["proposals"])
    return {
        "image": sample["image"],
        "scale_factor": sample["scale_factor"],
        "boxes": sample["proposals"],
        "labels": np.zeros(count, np.int64),
        "crowd": np.zeros(count, bool),
    }
