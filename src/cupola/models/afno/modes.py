"""Which Fourier modes an AFNO filter mixes.

A field of H rows and W columns has H row frequencies (0, 1, ..., -2, -1) and, being real,
W // 2 + 1 column frequencies. The published implementations select them in two ways that differ
from each other and, except on square grids, from the paper. A checkpoint works only with the
selection it was trained with, so each has a name here.
"""

from collections.abc import Callable
from dataclasses import dataclass

from cupola.errors import BuildError, did_you_mean


@dataclass(frozen=True)
class Modes:
    """The kept part of a spectrum [B, H, W // 2 + 1, C]: some row ranges, the first `columns`."""

    rows: tuple[tuple[int, int], ...]
    columns: int

    @property
    def height(self) -> int:
        """The number of kept rows."""
        return sum(stop - start for start, stop in self.rows)

    def keeps_all_rows(self, height: int) -> bool:
        """True if all rows of the spectrum are kept."""
        return self.rows == ((0, height),)


def fourcastnet_modes(height: int, width: int, fraction: float) -> Modes:
    """FourCastNet and physicsnemo: rows [T-K, T+K), columns [0, K); T = H // 2 + 1, K = int(T f).

    The rows are not shifted, so a fraction below 1 keeps the *high* row frequencies in the middle
    of the spectrum; and on a wide grid even fraction 1 drops the column frequencies from T on.
    """
    total = height // 2 + 1
    kept = int(total * fraction)
    rows = (max(total - kept, 0), min(total + kept, height))
    return Modes((rows,), min(kept, width // 2 + 1))


def transformer_modes(height: int, width: int, fraction: float) -> Modes:
    """AFNO-transformer: all rows, columns [0, K) with K from the number of *tokens*, H * W.

    K is so large that most fractions keep everything (NVlabs/AFNO-transformer issue 6); a later
    revision counts columns instead, see `column_modes`.
    """
    kept = int((height * width // 2 + 1) * fraction)
    return Modes(((0, height),), min(kept, width // 2 + 1))


def column_modes(height: int, width: int, fraction: float) -> Modes:
    """AFNO-transformer, corrected: all rows, columns [0, K) with K from W // 2 + 1."""
    return Modes(((0, height),), int((width // 2 + 1) * fraction))


def lowpass_modes(height: int, width: int, fraction: float) -> Modes:
    """The paper's intent: the lowest `fraction` of the frequencies of each axis, both signs."""
    rows = int((height // 2 + 1) * fraction)
    columns = int((width // 2 + 1) * fraction)
    negative = max(rows, height - rows + 1)  # first kept row of the negative frequencies
    if negative == rows:
        return Modes(((0, height),), columns)
    ranges = ((0, rows),) if negative >= height else ((0, rows), (negative, height))
    return Modes(ranges, columns)


RULES: dict[str, Callable[[int, int, float], Modes]] = {
    "fourcastnet": fourcastnet_modes,
    "transformer": transformer_modes,
    "columns": column_modes,
    "lowpass": lowpass_modes,
}


def mode_rule(name: str) -> Callable[[int, int, float], Modes]:
    """The rule of that name: (H, W, fraction) -> Modes; BuildError for an unknown name."""
    if name not in RULES:
        raise BuildError(
            f"modes={name!r}: expected one of {sorted(RULES)}{did_you_mean(name, RULES)}"
        )
    return RULES[name]
