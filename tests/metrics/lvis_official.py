"""Random federated evaluations, and the figures of lvis-api for them.

`python tests/metrics/lvis_official.py` (needs `pip install lvis==0.5.3 opencv-python matplotlib`)
writes lvis_api.json again.
"""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

FIGURES = Path(__file__).parent / "lvis_api.json"
CASES = range(6)


def case(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The content of an LVIS file, and detections with a box and a mask of a rectangle."""
    rng = np.random.default_rng(seed)
    classes, count = int(rng.integers(4, 9)), int(rng.integers(5, 12))
    categories = [
        {"id": n + 1, "name": f"c{n}", "frequency": "rcf"[int(rng.integers(3))], "synset": "x"}
        for n in range(classes)
    ]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for number in range(count):
        present = rng.choice(classes, int(rng.integers(0, 4)), replace=False) + 1
        absent = [n + 1 for n in range(classes) if n + 1 not in present and rng.random() < 0.4]
        loose = [int(n) for n in present if rng.random() < 0.3]
        images.append({
            "id": 7 * number + 3, "width": 300, "height": 240,
            "coco_url": f"http://images.cocodataset.org/val2017/{number}.jpg",
            "neg_category_ids": absent, "not_exhaustive_category_ids": loose,
        })  # fmt: skip
        for category in present:
            for _ in range(int(rng.integers(1, 5))):
                box = random_box(rng)
                annotations.append(entry(box, int(category), images[-1]["id"]))
                annotations[-1]["id"] = len(annotations)
                for _ in range(int(rng.integers(0, 3))):
                    near = [round(side + rng.normal(0, 4)) for side in box]
                    near[:2] = [max(0, side) for side in near[:2]]
                    near[2:] = [max(2, side) for side in near[2:]]
                    found.append(entry(near, int(category), images[-1]["id"]))
        for _ in range(int(rng.integers(0, 9))):
            category = int(rng.integers(1, classes + 1))
            found.append(entry(random_box(rng), category, images[-1]["id"]))
    for each in found:
        each["score"] = float(rng.integers(1, 12)) / 12  # with ties
    content = {"images": images, "annotations": annotations, "categories": categories}
    return content, found


def random_box(rng: np.random.Generator) -> list[int]:
    """left, top, width, height within 300 x 240."""
    width, height = (int(each) for each in np.exp(rng.uniform(2, 5, 2)))
    return [int(rng.integers(300 - width)), int(rng.integers(240 - height)), width, height]


def entry(box: list[int], category: int, image: int) -> dict[str, Any]:
    """An annotation with a rectangle as its polygon."""
    left, top, width, height = box
    right, bottom = left + width, top + height
    polygon = [left, top, right, top, right, bottom, left, bottom]
    return {
        "image_id": image, "category_id": category, "bbox": box, "area": width * height * 0.9,
        "segmentation": [polygon],
    }  # fmt: skip


def official(content: dict[str, Any], found: list[dict[str, Any]], kind: str) -> dict[str, float]:
    """The figures of lvis-api for boxes ("bbox") or masks ("segm")."""
    import tempfile

    from lvis import LVIS, LVISEval, LVISResults
    from pycocotools import mask as coco_mask

    np.float = float  # type: ignore[attr-defined]  # which lvis-api 0.5.3 takes from old versions
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lvis.json"
        path.write_text(json.dumps(content))
        truth = LVIS(str(path))
        results = [dict(each) for each in found]
        for each in results:
            runs = coco_mask.frPyObjects(each["segmentation"], 240, 300)
            each["segmentation"] = coco_mask.merge(runs)
            each.pop("area")
            if kind == "segm":
                each.pop("bbox")
        evaluation = LVISEval(truth, LVISResults(truth, results), kind)
        evaluation.run()
    return {k: float(v) for k, v in evaluation.get_results().items() if k.startswith("AP")}


if __name__ == "__main__":
    figures = [{kind: official(*case(seed), kind) for kind in ("bbox", "segm")} for seed in CASES]
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
