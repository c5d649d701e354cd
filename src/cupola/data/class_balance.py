"""CBGSDataset: samples repeated so that rare classes are seen as often as frequent ones."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from cupola.registry import DATASETS


@DATASETS.register_module()
class CBGSDataset:
    """Repeats samples so that all classes appear about equally often (CBGS, arXiv 1908.09492)."""

    def __init__(self, dataset: Mapping[str, Any], seed: int = 0) -> None:
        self.dataset = DATASETS.build(dataset)
        self.names = self.dataset.names
        self.collate = self.dataset.collate
        self.indices = self._balanced(np.random.default_rng(seed))

    def _balanced(self, rng: np.random.Generator) -> list[int]:
        holders: dict[str, list[int]] = {name: [] for name in self.names}
        for index, record in enumerate(self.dataset.samples):
            for name in set(record.names) & holders.keys():
                holders[name].append(index)
        holders = {name: found for name, found in holders.items() if found}
        total = sum(map(len, holders.values()))
        chosen: list[int] = []
        for found in holders.values():
            wanted = total / len(holders)
            chosen += rng.choice(found, int(wanted)).tolist()
        return chosen

    def __len__(self) -> int:
        return len(self.indices)

    def set_epoch(self, epoch: int) -> None:
        """Passes the epoch on to the dataset."""
        self.dataset.set_epoch(epoch)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample: dict[str, Any] = self.dataset[self.indices[index]]
        return sample
