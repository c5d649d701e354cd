"""When a run is validated."""

from bisect import bisect_right
from collections.abc import Mapping
from typing import Any

from cupola.errors import BuildError


class ValidationPlan:
    """After which steps a run is validated: `val_interval`, `val_begin` and `dynamic_intervals`.

    They count epochs where the run does, else steps. dynamic_intervals: pairs of (the epoch or step
    from which on it is valid, another interval); as in MMEngine, it is valid one earlier. The last
    step is always due, and none where the config has no validation.
    """

    def __init__(self, cfg: Mapping[str, Any], steps_per_epoch: int, max_steps: int) -> None:
        train_cfg = cfg["train_cfg"]
        self.active = bool(cfg.get("val_dataloader")) and "val_interval" in train_cfg
        self._unit = 1 if "max_iters" in train_cfg else steps_per_epoch
        self._begin = int(train_cfg.get("val_begin", 1))
        self._milestones, self._intervals = [0], [int(train_cfg.get("val_interval", 1))]
        self._last = max_steps
        try:
            for milestone, interval in train_cfg.get("dynamic_intervals") or ():
                self._milestones.append(int(milestone))
                self._intervals.append(int(interval))
        except (TypeError, ValueError):
            found = train_cfg["dynamic_intervals"]
            raise BuildError(
                f"train_cfg.dynamic_intervals: expected pairs (epoch, interval), got {found!r:.60}"
            ) from None
        if self.active and (
            min(self._intervals) < 1 or self._milestones != sorted(self._milestones)
        ):
            raise BuildError(
                "train_cfg: val_interval and the intervals of dynamic_intervals are 1 or more, and "
                "its epochs ascend"
            )

    def end(self, step: int) -> None:
        """The run ends after `step`."""
        self._last = step

    def is_due(self, step: int) -> bool:
        """Whether the run is validated after so many steps."""
        if not self.active or step == self._last:
            return self.active
        done, rest = divmod(step, self._unit)
        interval = self._intervals[bisect_right(self._milestones, done + 1) - 1]
        return not rest and done >= self._begin and done % interval == 0
