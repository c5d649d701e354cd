"""CrowdHuman's data and metrics, against its rules written out box by box."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cupola.data.crowdhuman import CrowdHumanDataset
from cupola.errors import BuildError, DataError
from cupola.metrics.crowdhuman import FALSE_POSITIVES, CrowdHumanMetric
from cupola.structures import Detections

Row = list[float]
SIZE = (60, 80)  # (height, width)


def case(seed: int) -> list[dict[str, Any]]:
    """Images with people, ignored boxes, and detections with scores in twentieths."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(12):
        people, ignored = ([box(rng) for _ in range(rng.integers(n))] for n in (6, 3))
        near = [[v + rng.integers(-4, 5) for v in each] for each in people if rng.random() < 0.8]
        found = [*near, *(box(rng) for _ in range(rng.integers(5)))]
        scores = [int(rng.integers(1, 20)) / 20 for _ in found]
        images.append({"people": people, "ignored": ignored, "found": found, "scores": scores})
    return images


def box(rng: np.random.Generator) -> Row:
    left, top = rng.integers(-3, 60), rng.integers(-3, 40)
    return [left, top, left + rng.integers(5, 30), top + rng.integers(5, 30)]


def clipped(row: Row) -> Row:
    left, top, right, bottom = row
    height, width = SIZE
    return [min(max(left, 0), width - 1), min(max(top, 0), height - 1),
            max(min(right, width), 0), max(min(bottom, height), 0)]  # fmt: skip


def overlap(a: Row, b: Row, of_first: bool = False) -> float:
    sides = [max(0.0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1)]
    one, two = ((r[2] - r[0]) * (r[3] - r[1]) for r in (a, b))
    both = sides[0] * sides[1]
    whole = one if of_first else one + two - both
    return both / max(whole, 1e-6)


def matched(image: dict[str, Any]) -> list[tuple[float, bool]]:
    """Scores of detections that count, and whether each found a person."""
    people, ignored = (list(map(clipped, image[key])) for key in ("people", "ignored"))
    order = sorted(range(len(image["found"])), key=lambda i: -image["scores"][i])
    taken: set[int] = set()
    rows = []
    for i in order:
        row = clipped(image["found"][i])
        best, chosen = 0.5, None
        for j, person in enumerate(people):
            if j not in taken and overlap(row, person) > best:
                best, chosen = overlap(row, person), j
        if chosen is None and any(overlap(row, each, True) > 0.5 for each in ignored):
            continue
        if chosen is not None:
            taken.add(chosen)
        rows.append((image["scores"][i], chosen is not None))
    return rows


def most_pairs(graph: list[list[int]]) -> int:
    """The size of the largest matching, by augmenting paths."""
    owner: dict[int, int] = {}

    def place(row: int, seen: set[int]) -> bool:
        for column in graph[row]:
            if column not in seen:
                seen.add(column)
                if column not in owner or place(owner[column], seen):
                    owner[column] = row
                    return True
        return False

    return sum(place(row, set()) for row in range(len(graph)))


def expected(images: list[dict[str, Any]]) -> dict[str, float]:
    total = sum(len(image["people"]) for image in images)
    rows = sorted((row for image in images for row in matched(image)), key=lambda row: -row[0])
    hits, wrong, area, last = 0, 0, 0.0, None
    curve = []
    for _, right in rows:
        hits, wrong = hits + right, wrong + (not right)
        point = (hits / total, hits / (hits + wrong))
        if last is not None:
            area += (point[0] - last[0]) * (point[1] + last[1]) / 2
        last = point
        curve.append((wrong / len(images), 1 - point[0]))
    misses = []
    for reference in FALSE_POSITIVES["CALTECH_-2"]:
        at = next((i for i, (rate, _) in enumerate(curve) if rate >= reference), len(curve) - 1)
        misses.append(math.log(curve[at][1]))
    return {"mAP": area, "mMR": math.exp(sum(misses) / len(misses))}


def measured(images: list[dict[str, Any]], **settings: Any) -> dict[str, float]:
    metric = CrowdHumanMetric(**settings)
    for image in images:
        rows = [(r, 0) for r in image["people"]] + [(r, 1) for r in image["ignored"]]
        entries = [
            {"bbox": [r[0], r[1], r[2] - r[0], r[3] - r[1]], "iscrowd": crowd} for r, crowd in rows
        ]
        boxes = torch.tensor(image["found"], dtype=torch.float64).reshape(-1, 4)
        scores = torch.tensor(image["scores"], dtype=torch.float64)
        found = Detections(boxes, scores, torch.zeros(len(scores)).long())
        metric.update({"annotations": [entries], "original_sizes": [SIZE]}, [found])
    return metric.compute()


@pytest.mark.parametrize("seed", range(4))
def test_precision_and_miss_rate(seed: int) -> None:
    images = case(seed)
    found = measured(images)
    assert {key: found[key] for key in ("mAP", "mMR")} == pytest.approx(expected(images))


def test_the_jaccard_index_matches_as_many_as_possible() -> None:
    """Greedily the first detection would take the person that the second needs."""
    wide, left = [0, 0, 30, 20], [0, 0, 20, 20]
    image = {"people": [left, wide], "ignored": [], "found": [left, [0, 0, 13, 20]]}
    graph = [[j for j, p in enumerate(image["people"]) if overlap(row, p) >= 0.5]
             for row in image["found"]]  # fmt: skip
    assert graph == [[0, 1], [0]] and most_pairs(graph) == 2
    assert measured([{**image, "scores": [0.9, 0.95]}])["JI"] == pytest.approx(1, abs=1e-5)
    spare = {**image, "ignored": [[50, 30, 80, 60]], "found": [left, [55, 35, 65, 45]]}
    # one pair of two people; the other detection lies in an ignored box
    assert measured([{**spare, "scores": [0.9, 0.95]}])["JI"] == pytest.approx(0.5, abs=1e-5)


def test_pairs_of_the_jaccard_index_go_by_the_order_of_detections_not_by_scores() -> None:
    """Two boxes fit one person; the one that lies in an ignored box does not count unpaired."""
    person, ignored = [0, 0, 20, 20], [0, 0, 20, 12]
    image = {
        "people": [person],
        "ignored": [ignored],
        "scores": [0.09, 0.08],
    }  # below all but one threshold
    boxes = [[0, 0, 20, 13], [0, 5, 20, 20]]
    values = [measured([{**image, "found": each}])["JI"] for each in (boxes, boxes[::-1])]
    swapped = {**image, "scores": [0.08, 0.09]}
    assert sorted(values) == pytest.approx([0.5, 1.0], abs=1e-5)
    assert [measured([{**swapped, "found": b}])["JI"] for b in (boxes, boxes[::-1])] == values


def test_settings() -> None:
    images = case(0)
    assert set(measured(images, metric="AP")) == {"mAP"}
    finer = measured(images, metric=["MR"], mr_ref="CALTECH_-4")
    assert finer["mMR"] >= measured(images, metric=["MR"])["mMR"]
    for wrong, words in (
        ({"metric": "AR"}, "metric 'AR'; use AP, MR, JI"),
        ({"mr_ref": "x"}, "mr_ref is 'x'; use CALTECH_-2 or CALTECH_-4"),
        ({"eval_mode": 1}, r"only eval_mode=0 \(bodies\)"),
    ):
        with pytest.raises(BuildError, match=words):
            CrowdHumanMetric(**wrong)
    with pytest.raises(DataError, match="at least one person"):
        measured([{"people": [], "ignored": [], "found": [], "scores": []}])
    with pytest.raises(DataError, match="needs a CrowdHumanDataset with test_mode=True"):
        CrowdHumanMetric().update({}, [])


def person(fbox: list[float], **more: Any) -> dict[str, Any]:
    return {"tag": "person", "fbox": fbox, "hbox": [1, 1, 2, 2], "vbox": fbox, **more}


def written(folder: Path, *lines: Any) -> Path:
    (folder / "Images").mkdir(exist_ok=True)
    Image.new("RGB", (40, 30)).save(folder / "Images/1,a.jpg")
    text = "\n".join(each if isinstance(each, str) else json.dumps(each) for each in lines)
    (folder / "annotation_val.odgt").write_text(text + "\n")
    return folder


def dataset(folder: Path, **options: Any) -> CrowdHumanDataset:
    where = {"ann_file": "annotation_val.odgt", "data_prefix": {"img": "Images/"}}
    return CrowdHumanDataset(str(folder), **{**where, **options})


def test_a_file(tmp_path: Path) -> None:
    people = [
        person([2, 3, 10, 12]),
        person([-5, 20, 20, 30], extra={"ignore": 1}),
        {"tag": "mask", "fbox": [0, 0, 4, 4], "hbox": [0, 0, 1, 1], "vbox": [0, 0, 4, 4]},
    ]
    written(tmp_path, {"ID": "1,a", "gtboxes": people})
    sample = dataset(tmp_path).load(0)
    assert sample["boxes"].tolist() == [[2, 3, 12, 15]] and sample["labels"].tolist() == [0]
    tested = dataset(tmp_path, test_mode=True).load(0)
    assert tested["crowd"].tolist() == [False, True, True]
    assert [each["iscrowd"] for each in tested["annotations"]] == [0, 1, 1]
    assert tested["annotations"][1]["bbox"] == [-5, 20, 20, 30]
    assert tested["boxes"][1].tolist() == [0, 20, 15, 30]
    empty = written(tmp_path, {"ID": "1,a", "gtboxes": []})
    with pytest.raises(DataError, match="no image is left after filtering"):
        dataset(empty, filter_cfg={"filter_empty_gt": True})


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 1: not JSON"),
        ("[" * 5000, "line 1: not JSON"),
        ([1], "expected an object with ID and gtboxes"),
        ({"ID": "1", "gtboxes": [{"tag": "person"}]}, "fbox is None; expected left, top, width"),
        ({"ID": "1", "gtboxes": [person([1, 2, float("nan"), 3])]}, "fbox is"),
        ({"ID": "1", "gtboxes": [3]}, "fbox is None"),
    ],
)
def test_a_damaged_file(tmp_path: Path, line: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        dataset(written(tmp_path, line))


def test_names_do_not_leave_the_folder(tmp_path: Path) -> None:
    written(tmp_path, {"ID": "../secret", "gtboxes": [person([1, 1, 2, 2])]})
    with pytest.raises(DataError, match=r"\.\./secret"):
        dataset(tmp_path).load(0)
