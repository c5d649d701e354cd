"""Writes docs/coverage.md: which published configs read and build, by family.

    python scripts/coverage_table.py [WHEELS] > docs/coverage.md

WHEELS as for bench/config.py. A family is the folder of a config. A golden is a file with outputs
of the original (tests/goldens); every config that builds is also compared in keys and shapes.
"""

import json
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "bench"))
WHEELS = ("mmdet-2.28.2", "mmdet-3.3.0", "mmdet3d-1.4.0")
TEXT = (
    "Of each family of configs that MMDetection 2.28.2 and 3.3.0 and MMDetection3D 1.4.0 "
    "publish: how many have a model, and how many of these build. All of them read to the dicts "
    "that mmengine makes of them. A golden means that outputs and losses of the original, at "
    "every stage, are among the tests; keys and shapes are compared for every config of "
    "MMDetection that builds "
    "([`test_published_keys.py`](../tests/models/test_published_keys.py)). `python "
    "scripts/coverage_table.py` writes this page, `cupola coverage FOLDER` says of each config "
    "what it lacks. Of the families that are nearly complete, what is left: a config of V3Det "
    "whose neck has an argument that MMDetection's own FPN does not take; pooling with learned "
    "offsets (`DeformRoIPoolPack`, `ModulatedDeformRoIPoolPack`) in dcn and dcnv2; heads for "
    "Ascend processors in 2.28.2's _base_, retinanet and ssd; a config of its objects365 that "
    "gives a Faster R-CNN the head of a RetinaNet; and the backbones of timm."
)
HEAD = f"""# Coverage

{TEXT}

| family | 2.28.2 | 3.3.0 | MMDetection3D | golden |
|---|---|---|---|---|
"""


def counted(folder: Path) -> dict[str, dict[str, Counter[str]]]:
    """Of each family and wheel: configs with a model, and those that build."""
    from config import published
    from cupola.runtime.coverage import cover

    found: dict[str, dict[str, Counter[str]]] = {}
    for path in published(folder):
        covered = cover(path)
        if covered.status in ("unreadable", "no model"):
            continue
        wheel = next(name for name in WHEELS if name in path.as_posix())
        family = path.parts[path.parts.index("configs") + 1]
        counts = found.setdefault(family, {name: Counter() for name in WHEELS})[wheel]
        counts.update(["models"] + ["builds"] * (covered.status == "builds"))
    return found


def families_with_goldens() -> set[str]:
    """The families of which outputs of the original are among the tests."""
    paths = (ROOT / "tests/goldens").rglob("*.json")
    texts = (json.loads(path.read_text()) for path in paths)
    configs = (text.get("config") for text in texts if isinstance(text, dict))
    return {config.split("/")[0] for config in configs if isinstance(config, str)}


def table(found: dict[str, dict[str, Counter[str]]], golden: set[str]) -> str:
    """The rows, families with the most configs that build first, and their sum."""
    lines = []
    totals = {name: Counter[str]() for name in WHEELS}
    built = {family: sum(c["builds"] for c in by.values()) for family, by in found.items()}
    for family in sorted(found, key=lambda family: (-built[family], family)):
        cells = []
        for wheel, counts in found[family].items():
            totals[wheel] += counts
            cells.append(f"{counts['builds']} of {counts['models']}" if counts["models"] else "")
        lines.append(f"| {family} | {' | '.join(cells)} | {'yes' if family in golden else ''} |")
    sums = " | ".join(f"{each['builds']} of {each['models']}" for each in totals.values())
    return "\n".join([*lines, f"| all | {sums} | |"])


def main() -> None:
    from config import download

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else temporary)
        if len(sys.argv) < 2:
            download(folder)
        print(HEAD + table(counted(folder), families_with_goldens()))


if __name__ == "__main__":
    main()
