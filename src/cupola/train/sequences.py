"""Batches of frames of several sequences side by side, for models that remember earlier frames.

Every place of a batch follows one sequence from frame to frame, then the next one. Source:
InfiniteGroupEachSampleInBatchSampler of StreamPETR.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch

from cupola.errors import BuildError
from cupola.registry import without_scope

SAMPLERS = ("SequenceSampler", "InfiniteGroupEachSampleInBatchSampler")


def is_sequential(sampler: Any) -> bool:
    """Whether a dataloader's `sampler` is one of sequences."""
    return isinstance(sampler, Mapping) and without_scope(sampler).get("type") in SAMPLERS


class SequenceBatches:
    """Endless batches for one rank, starting with number `first`.

    The dataset has `sequences`: the indices of each, in order. The sequences are shuffled, not
    their frames. Place k of all ranks' batches takes every G-th sequence, G places in total, and
    starts within its first one, so that the places do not begin new sequences at the same step.
    """

    def __init__(
        self, dataset: Any, batch_size: int, seed: int, first: int, rank: int, ranks: int
    ) -> None:
        sequences = getattr(dataset, "sequences", None)
        if sequences is None:
            raise BuildError(
                f"sampler: {type(dataset).__name__} has no sequences; remove the sampler"
            )
        self._sequences = [each for each in sequences if len(each)]
        self._places = batch_size * ranks
        if len(self._sequences) < self._places:
            raise BuildError(
                f"sampler: {len(self._sequences)} sequences are not enough for a batch of "
                f"{self._places}; set a smaller batch_size"
            )
        self._own = range(rank * batch_size, (rank + 1) * batch_size)
        self._seed, self._first = seed, first

    def _shuffled(self) -> Iterator[Sequence[int]]:
        generator = torch.Generator().manual_seed(self._seed)
        while True:
            for number in torch.randperm(len(self._sequences), generator=generator).tolist():
                yield self._sequences[number]

    def _place(self, place: int) -> Iterator[int]:
        """The indices that one place of the batch takes."""
        mine = islice(self._shuffled(), place, None, self._places)
        started = next(mine)
        yield from started[len(started) * place // self._places :]
        for sequence in mine:
            yield from sequence

    def __iter__(self) -> Iterator[list[int]]:
        places = [islice(self._place(place), self._first, None) for place in self._own]
        while True:
            yield [next(place) for place in places]


class ParallelSequences:
    """All frames once: `size` sequences side by side, then the next ones.

    A batch gets smaller where sequences have ended.
    """

    def __init__(self, sequences: Sequence[Sequence[int]], size: int) -> None:
        self._groups = [sequences[i : i + size] for i in range(0, len(sequences), size)]

    def __len__(self) -> int:
        return sum(max(map(len, group)) for group in self._groups)

    def __iter__(self) -> Iterator[list[int]]:
        for group in self._groups:
            for t in range(max(map(len, group))):
                yield [each[t] for each in group if t < len(each)]
