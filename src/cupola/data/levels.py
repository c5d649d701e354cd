"""The levels 0..10 of AutoAugment's and RandAugment's transforms, and their magnitudes.

Source: mmdet/datasets/transforms/augment_wrappers.py.
"""

from cupola.data.pipeline import Pair, Random
from cupola.errors import DataError

HIGHEST = 10  # level


def probability(value: float, where: str) -> float:
    """The value, if it is in 0..1; else DataError."""
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise DataError(f"{where} is {value!r}; expected 0..1")
    return value


def level_of(level: float | None, where: str, whole: bool = True) -> float | None:
    """The level, if it is None or one of 0..10, a whole number with `whole`; else DataError."""
    kinds = int if whole else int | float
    if level is not None and (not isinstance(level, kinds) or not 0 <= level <= HIGHEST):
        kind = "a whole number of 0..10, or None to draw one" if whole else "0..10"
        raise DataError(f"{where}: level is {level!r}; expected {kind}")
    return level


def check_range(ends: Pair, most: float, where: str) -> None:
    """Raise DataError unless 0 <= min_mag <= max_mag <= most."""
    low, high = ends
    if not 0 <= low <= high <= most:
        raise DataError(f"{where}: expected 0 <= min_mag <= max_mag <= {most}; got {low}, {high}")


def chosen_magnitude(level: float | None, ends: Pair, rng: Random) -> float:
    """The magnitude at a level between the ends, drawn where it is None, rounded to a tenth."""
    part = rng.random() if level is None else level / HIGHEST
    return round(part * (ends[1] - ends[0]) + ends[0], 1)
