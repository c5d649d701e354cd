"""The files of Open Images and its challenge -> checked values.

Source of the formats: mmdet/datasets/openimages.py. Files of image sizes (image-metas.pkl) are
pickles, which are not read: sizes are those of the images.
"""

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cupola.errors import DataError
from cupola.files import read_json
from cupola.files.opening import read_bytes, read_text

LARGEST_NPY = 64 * 2**20  # bytes
BOX_COLUMNS = ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax", "IsGroupOf")
DEEPEST = 64  # categories inside each other


@dataclass
class Objects:
    """The objects of one image: boxes xyxy in parts of the image, labels, and groups."""

    name: str
    boxes: list[tuple[float, ...]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    groups: list[bool] = field(default_factory=list)

    def add(self, label: int, box: Sequence[float], group: bool) -> None:
        """Appends an object."""
        self.boxes.append(tuple(box))
        self.labels.append(label)
        self.groups.append(group)


@dataclass(frozen=True)
class Classes:
    """names, and the label of each category's id (/m/0abc)."""

    names: tuple[str, ...]
    label_of: Mapping[str, int]


def read_classes(path: Path, numbered: bool) -> Classes:
    """Lines of id and name; in the challenge (`numbered`) also of a number from 1."""
    rows = list(_rows(path, 3 if numbered else 2))
    if not rows:
        raise DataError(f"{path}: has no classes")
    if numbered:
        count = len(rows)
        rows.sort(key=lambda row: _number(path, row[2], 1, count))
    labels = {row[0]: label for label, row in enumerate(rows)}
    if len(labels) < len(rows):
        raise DataError(f"{path}: a category is in it more than once")
    return Classes(tuple(row[1] for row in rows), labels)


def read_boxes(path: Path, classes: Classes) -> list[Objects]:
    """The objects of every image of a CSV file, in its order."""
    rows = _rows(path, 2)
    header = next(rows, [])
    missing = [each for each in BOX_COLUMNS if each not in header]
    if missing:
        raise DataError(f"{path}: its first line lacks {', '.join(missing)}")
    image, name, left, right, top, bottom, group = (header.index(each) for each in BOX_COLUMNS)
    found: dict[str, Objects] = {}
    for row in rows:
        if len(row) < len(header):
            raise DataError(f"{path}: a line has {len(row)} values, the first {len(header)}")
        box = [_number(path, row[side], 0, 1) for side in (left, top, right, bottom)]
        objects = found.setdefault(row[image], Objects(f"{row[image]}.jpg"))
        objects.add(_label(path, classes, row[name]), box, row[group] == "1")
    return list(found.values())


def read_challenge_boxes(path: Path, count: int) -> list[Objects]:
    """The objects of every image of a text file.

    For each image a line with its name, one that is not used, one with the number of objects, and
    a line for each of these: label from 1, box, and 1 for a group.
    """
    lines = [line.split() for line in read_text(path).splitlines()]
    found, at = [], 0
    while at < len(lines):
        if len(lines) < at + 3:
            raise DataError(f"{path}: line {at + 1}: an image needs a name and a number of objects")
        objects = Objects(" ".join(lines[at]))
        number = int(_number(path, " ".join(lines[at + 2]), 0, len(lines) - at - 3))
        for values in lines[at + 3 : at + 3 + number]:
            if len(values) != 6:
                raise DataError(
                    f"{path}: an object of {objects.name} has {len(values)} values, not 6"
                )
            box = [_number(path, each, 0, 1) for each in values[1:5]]
            label = int(_number(path, values[0], 1, count)) - 1
            objects.add(label, box, values[5] == "1")
        found.append(objects)
        at += 3 + number
    return found


def read_image_labels(path: Path, classes: Classes) -> dict[str, list[int]]:
    """The labels that images are known to have or not to have, by the name without its ending."""
    rows = _rows(path, 3)
    header = next(rows, [])
    place = header.index("LabelName") if "LabelName" in header else 1
    found: dict[str, list[int]] = {}
    for row in rows:
        if place < len(row):
            found.setdefault(row[0], []).append(_label(path, classes, row[place]))
    return found


def read_hierarchy(path: Path, classes: Classes) -> list[tuple[int, ...]]:
    """The labels above each label: those that an object of it has, too."""
    above: list[set[int]] = [set() for _ in classes.names]

    def visit(node: Any, parents: tuple[int, ...], depth: int) -> None:
        if not isinstance(node, Mapping) or depth > DEEPEST:
            raise DataError(f"{path}: not a hierarchy of at most {DEEPEST} levels")
        below = node.get("Subcategory", [])
        if not isinstance(below, list):
            raise DataError(f"{path}: Subcategory is {below!r:.40}; expected a list")
        for child in below:
            if isinstance(child, Mapping) and "LabelName" in child:
                label = _label(path, classes, child["LabelName"])
                above[label].update(parents)
                visit(child, (label, *parents), depth + 1)

    visit(read_json(path), (), 0)
    return [tuple(sorted(each)) for each in above]


def read_relations(path: Path, count: int) -> list[tuple[int, ...]]:
    """The same from the matrix [1 + C, 1 + C] of the challenge: row i names what is above i."""
    content = read_bytes(path, LARGEST_NPY)
    try:
        matrix = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OverflowError, MemoryError) as problem:
        raise DataError(
            f"{path}: cannot be read without unpickling ({problem}); save it again with "
            "np.save(..., matrix.astype(bool)) where you trust it"
        ) from None
    if matrix.shape != (count + 1, count + 1):
        raise DataError(f"{path}: is {matrix.shape}; expected {(count + 1, count + 1)}")
    inner = matrix[1:, 1:].astype(bool) & ~np.eye(count, dtype=bool)
    return [tuple(np.flatnonzero(row).tolist()) for row in inner]


def _rows(path: Path, least: int) -> Iterator[list[str]]:
    """The lines of a CSV file; DataError if one has less than `least` values."""
    for number, row in enumerate(csv.reader(io.StringIO(read_text(path))), 1):
        if not row:
            continue
        if len(row) < least:
            raise DataError(
                f"{path}: line {number} has {len(row)} values; expected {least} or more"
            )
        yield row


def _label(path: Path, classes: Classes, name: Any) -> int:
    if name not in classes.label_of:
        raise DataError(f"{path}: category {name!r:.60} is not in the file of classes")
    return classes.label_of[name]


def _number(path: Path, text: str, low: float, high: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise DataError(f"{path}: {text!r:.40} is not a number from {low} to {high}")
    return value
