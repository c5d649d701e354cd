"""docs/coverage.md, which scripts/coverage_table.py writes, and the figures that README takes."""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from coverage_table import families_with_goldens  # noqa: E402

ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "docs/coverage.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith("| family")
]
Pair = tuple[int, int]


def pairs(row: list[str]) -> list[Pair]:
    """Configs that build, and configs with a model, of each of the three packages."""
    numbers = [cell.split(" of ") if cell else ("0", "0") for cell in row[1:4]]
    return [(int(builds), int(models)) for builds, models in numbers]


def test_the_last_row_is_the_sum() -> None:
    *families, last = ROWS
    columns = list(zip(*(pairs(row) for row in families), strict=True))
    sums = [(sum(b for b, _ in each), sum(m for _, m in each)) for each in columns]
    assert last[0] == "all" and pairs(last) == sums
    assert all(builds <= models for row in families for builds, models in pairs(row))


def test_families_with_goldens_are_marked() -> None:
    marked = {row[0] for row in ROWS if row[4] == "yes"}
    assert marked == families_with_goldens() & {row[0] for row in ROWS}


def test_readme_says_how_many_build() -> None:
    total = sum(builds for builds, _ in pairs(ROWS[-1]))
    for name in ("README.md", "README.zh-CN.md"):
        assert f"{total:,}" in (ROOT / name).read_text(), name
