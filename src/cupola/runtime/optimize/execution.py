"""How a predictor is executed, and what is known of each engine."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """What is known of one engine: seconds per sample, difference from eager, or why not."""

    engine: str
    seconds: float | None = None
    difference: str = ""
    reason: str = ""

    def line(self, chosen: bool) -> str:
        """The row as one line of text."""
        parts = [
            f"{1000 * self.seconds:.1f} ms" if self.seconds is not None else "",
            f"difference: {self.difference}" if self.difference and self.engine != "eager" else "",
            self.reason,
            "chosen" if chosen else "",
        ]
        return f"{self.engine}: {'; '.join(part for part in parts if part)}"


@dataclass(frozen=True)
class Execution:
    """How a predictor's network is executed: what was asked for, and by which engine."""

    optimization: str
    engine: str
    rows: tuple[Row, ...] = ()
    measured: bool = False  # now, not in an earlier process
    provisional: bool = False  # until all engines, with their graphs, have been measured
