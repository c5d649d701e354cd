"""Reading a COCO instances file: every entry is checked before anything uses it.

Source of the format: cocodataset.org/#format-data. What annotation tools leave out or write
differently is accepted where its meaning is clear (no image size, ids such as 3.0); everything else
is an error of one line that names the file, the entry and the field. Annotations of images that are
not in the file are counted and left out, as in pycocotools.
"""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cupola.errors import DataError
from cupola.files import read_json

Entry = dict[str, Any]
Id = int | str
logger = logging.getLogger("cupola")
SECTIONS = ("images", "annotations", "categories")
BOX = "expected [left, top, width, height] in pixels"


@dataclass(frozen=True)
class Instances:
    """The content of a COCO file.

    categories: name by category id, in the order of the ids.
    category_entries: the categories as the file has them.
    images: the images' entries in the file's order, with "id", "file_name", and "width" and
    "height" (0 where the file does not say).
    objects: the annotations of each image id, with a valid "bbox" [left, top, width, height],
    "category_id", "iscrowd" (bool), and everything else, such as "segmentation", as in the file.
    """

    path: Path
    categories: dict[Id, str]
    images: list[Entry]
    objects: dict[Id, list[Entry]] = field(default_factory=dict)
    category_entries: list[Entry] = field(default_factory=list)


def own_name(image: Mapping[str, Any]) -> Any:
    """The file of an image, as its entry has it."""
    return image.get("file_name")


def read_instances(path: Path, file_name: Callable[[Entry], Any] = own_name) -> Instances:
    """The content of a COCO instances file. Raises DataError if it is not one.

    file_name: the name of an image's file from its entry.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: not a COCO file, its top is not an object")
    missing = [key for key in SECTIONS if key not in content]
    if missing:
        raise DataError(f"{path}: not a COCO file, {', '.join(missing)} missing")
    for key in SECTIONS:
        if not isinstance(content[key], list):
            raise DataError(f"{path}: {key} is {_shown(content[key])}; expected a list")
    categories = _categories(path, content["categories"])
    images = _images(path, content["images"], file_name)
    objects: dict[Id, list[Entry]] = {image["id"]: [] for image in images}
    seen: set[Id] = set()
    strays: list[Entry] = []
    for index, entry in enumerate(content["annotations"]):
        where = f"{path}: annotations[{index}]"
        number = _id(where, _entry(where, entry), "id")
        where = f"{path}: annotation {number!r:.60}"
        if number in seen:
            raise DataError(f"{where}: its id is used more than once")
        seen.add(number)
        checked = _annotation(where, entry, categories)
        objects.get(checked["image_id"], strays).append(checked)
    if strays:
        first = f"annotation {strays[0]['id']!r:.60} has image_id {strays[0]['image_id']!r:.40}"
        logger.warning(
            "%s: not used: %d annotations of images not in it, %s", path, len(strays), first
        )
    return Instances(path, categories, images, objects, content["categories"])


def _categories(path: Path, entries: list[Any]) -> dict[Id, str]:
    found: dict[Id, str] = {}
    names: set[str] = set()
    for index, entry in enumerate(entries):
        where = f"{path}: categories[{index}]"
        number = _id(where, _entry(where, entry), "id")
        name = entry.get("name")
        if not isinstance(name, str) or not name:
            raise DataError(f"{where}: name is {_shown(name)}; expected a text")
        if number in found:
            raise DataError(f"{where}: its id {number!r} is used more than once")
        if name in names:
            raise DataError(f"{where}: its name {name!r} is used more than once")
        found[number] = name
        names.add(name)
    return dict(sorted(found.items(), key=lambda item: (isinstance(item[0], str), item[0])))


def _images(path: Path, entries: list[Any], file_name: Callable[[Entry], Any]) -> list[Entry]:
    images, seen = [], set()
    for index, entry in enumerate(entries):
        where = f"{path}: images[{index}]"
        number = _id(where, _entry(where, entry), "id")
        where = f"{path}: image {number!r:.60}"
        if number in seen:
            raise DataError(f"{where}: its id is used more than once")
        seen.add(number)
        name = file_name(entry)
        if not isinstance(name, str) or not name:
            raise DataError(f"{where}: file_name is {_shown(name)}; expected a text")
        sides = {key: _side(where, entry, key) for key in ("width", "height")}
        images.append({**entry, "id": number, "file_name": name, **sides})
    return images


def _side(where: str, entry: Mapping[str, Any], key: str) -> int:
    value = entry.get(key) or 0
    if not _is_number(value) or value < 0 or value != int(value):
        raise DataError(f"{where}: {key} is {_shown(value)}; expected a number of pixels")
    return int(value)


def _annotation(where: str, entry: Entry, categories: Mapping[Id, str]) -> Entry:
    category = _id(where, entry, "category_id")
    if category not in categories:
        raise DataError(f"{where}: category_id {category!r:.40} is not among the categories")
    return {
        **entry,
        "image_id": _id(where, entry, "image_id"),
        "category_id": category,
        "bbox": _box(where, entry),
        **_area(where, entry),
        "iscrowd": _flag(where, entry, "iscrowd"),
        "ignore": _flag(where, entry, "ignore"),
    }


def _box(where: str, entry: Entry) -> list[float]:
    if "bbox" not in entry:
        raise DataError(f"{where}: lacks bbox; {BOX}")
    box = entry["bbox"]
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise DataError(f"{where}: bbox is {_shown(box)}; {BOX}")
    if box[2] < 0 or box[3] < 0:
        raise DataError(f"{where}: bbox {_shown(box)} has a negative side; {BOX}")
    return box


def _area(where: str, entry: Entry) -> Entry:
    """The area where the file has one: of the object, by which evaluations tell sizes."""
    area = entry.get("area")
    if area is None:
        return {}
    if not _is_number(area) or area < 0:
        raise DataError(f"{where}: area is {_shown(area)}; expected a number of pixels")
    return {"area": area}


def _flag(where: str, entry: Entry, key: str) -> bool:
    value = entry.get(key) or 0
    if value not in (0, 1):
        raise DataError(f"{where}: {key} is {_shown(value)}; expected 0 or 1")
    return bool(value)


def _entry(where: str, entry: Any) -> Entry:
    if not isinstance(entry, dict):
        raise DataError(f"{where}: is {_shown(entry)}; expected an object")
    return entry


def _id(where: str, entry: Entry, key: str) -> Id:
    """A whole number, or a text as some tools write; 3.0 is 3."""
    if key not in entry:
        raise DataError(f"{where}: lacks {key}")
    value = entry[key]
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and value:
        return value
    raise DataError(f"{where}: {key} is {_shown(value)}; expected a whole number")


def _is_number(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) < 1e15 and not math.isnan(value)


def _shown(value: Any) -> str:
    """A value as the file has it: null, not None."""
    return "null" if value is None else f"{value!r:.80}".replace("None", "null")
