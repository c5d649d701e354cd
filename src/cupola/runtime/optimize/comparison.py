"""Compares the times of two engines that were timed in turns.

Each turn gives one ratio. What slows the machine for a while slows both, so the median of the
ratios is steadier than the ratio of two medians.
"""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

MARGIN = 0.03  # by which a faster engine must be ahead, whatever the error
CLEAR = 0.02  # the error with which any comparison is clear
LITTLE = 0.1  # a share of the time that is not worth another measurement
UNKNOWN = 0.25  # the error of a single ratio


class Comparison(NamedTuple):
    """The ratio of the times of two engines, and its standard error."""

    ratio: float
    error: float

    @property
    def is_ahead(self) -> bool:
        """Whether the first is faster by more than the margin and the error."""
        return self.ratio < 1 - MARGIN - self.error

    @property
    def is_clear(self) -> bool:
        """Whether another measurement would say the same, or could gain only little."""
        at_stake = 1 - self.ratio + self.error
        if self.error <= CLEAR or max(self.error, at_stake) < LITTLE:
            return True
        return abs(self.ratio - (1 - MARGIN)) > 3 * self.error


def compared(times: Sequence[float], others: Sequence[float]) -> Comparison:
    """Of two engines' times in the same turns."""
    ratios = sorted(own / other for own, other in zip(times, others, strict=True))
    ratio, count = statistics.median(ratios), len(ratios)
    if count == 1:
        return Comparison(ratio, UNKNOWN)
    # The median is between these two in 19 of 20 cases, whatever the distribution.
    first = max(0, math.floor(count / 2 - math.sqrt(count)))
    return Comparison(ratio, (ratios[-1 - first] - ratios[first]) / 4)
