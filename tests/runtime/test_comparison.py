"""Times of engines on a machine that other processes use."""

from pathlib import Path

import pytest

from cupola.runtime.optimize import stopwatch
from cupola.runtime.optimize.comparison import compared
from cupola.runtime.optimize.stopwatch import timed, wall_timed


@pytest.mark.parametrize(
    ("times", "others", "ahead", "clear"),
    [
        ([0.90] * 9, [1.0] * 9, True, True),
        ([0.98] * 9, [1.0] * 9, False, True),
        ([0.6, 1.2, 0.6, 1.2, 0.6], [1.0, 2.0, 1.0, 2.0, 1.0], True, True),  # slowed together
        ([0.6, 1.2, 0.6, 1.2], [1.0] * 4, False, False),
        ([0.3, 0.5, 0.4, 0.5, 0.3], [1.0] * 5, True, True),  # noisy, but far apart
        ([0.9], [1.0], False, False),
        ([0.92, 1.04, 0.92, 1.04, 0.98], [1.0] * 5, False, True),  # little to gain
        ([0.82, 1.04, 0.82, 1.04, 0.93], [1.0] * 5, False, False),
    ],
)
def test_comparisons(times: list[float], others: list[float], ahead: bool, clear: bool) -> None:
    found = compared(times, others)
    assert (found.is_ahead, found.is_clear) == (ahead, clear)


@pytest.fixture
def threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the system counts of two threads, and a clock that each run advances by 2 seconds."""
    clock = iter(range(0, 100, 2))
    monkeypatch.setattr(stopwatch, "THREADS", tmp_path)
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: next(clock))
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "schedstat").write_text("5000000000 1000000000 7\n")
    return tmp_path


@pytest.mark.parametrize(("seconds", "expected"), [(1.5, 1.5), (2.5, 2.0)])
def test_waiting_for_a_core_does_not_count(threads: Path, seconds: float, expected: float) -> None:
    def run() -> None:
        for name, computed in (("1", seconds), ("2", 1.2)):
            (threads / name / "schedstat").write_text(f"{5e9 + 1e9 * computed:.0f} 3000000000 9\n")

    assert timed(run) == pytest.approx(expected)
    assert wall_timed(run) == 2


def test_a_system_that_counts_nothing(threads: Path) -> None:
    for file in threads.glob("*/schedstat"):
        file.write_text("0 0 0\n")
    assert timed(lambda: None) == 2
