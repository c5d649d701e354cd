"""Means of the losses between two log lines."""

import time
from collections.abc import Mapping

import torch
from torch import Tensor


class Meter:
    """Sums losses on the device; its state is part of a checkpoint, so curves resume exactly."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._count = 0
        self._timed, self._since = 0, time.perf_counter()

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Adds the (detached) values of one step."""
        for name, value in values.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()
        self._count += 1
        self._timed += 1

    def take(self) -> tuple[dict[str, Tensor], float]:
        """(means, seconds per step) since the last call; resets the sums."""
        means = {name: total / max(1, self._count) for name, total in self._sums.items()}
        seconds = (time.perf_counter() - self._since) / max(1, self._timed)
        self._sums, self._count = {}, 0
        self.restart_clock()
        return means, seconds

    def restart_clock(self) -> None:
        """Excludes the time since the last step, such as a validation."""
        self._timed, self._since = 0, time.perf_counter()

    def state_dict(self) -> dict[str, int | dict[str, Tensor]]:
        """The sums so far, without the clock."""
        return {"sums": dict(self._sums), "count": self._count}

    def load_state_dict(self, state: dict[str, int | dict[str, Tensor]]) -> None:
        """Restores what `state_dict` returned."""
        sums, count = state["sums"], state["count"]
        assert isinstance(sums, dict) and isinstance(count, int)
        self._sums, self._count = dict(sums), count
        self._sums = {name: torch.as_tensor(value) for name, value in sums.items()}
