"""Reads MMDetection3D's nuScenes info files, of both layouts, without executing pickled code.

Layout 1 (`infos`) is that of MMDetection3D up to 1.0, layout 2 (`data_list`) that from 1.1 on.
"""

import logging
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cupola.data.info_fields import Fields
from cupola.data.nuscenes_layouts import InfoSettings, from_layout1, from_layout2
from cupola.data.nuscenes_samples import SampleRecord
from cupola.errors import DataError
from cupola.files import content_of, load_plain_pickle
from cupola.files.opening import read_bytes

logger = logging.getLogger("cupola")

# The classes by number where layout 2 does not name them, as its converter numbers them.
CATEGORIES = (
    *("car", "truck", "trailer", "bus", "construction_vehicle", "bicycle", "motorcycle"),
    *("pedestrian", "traffic_cone", "barrier"),
)
# Classes whose boxes are longer than wide, by which the order of the sides can be told.
LONG = frozenset(("car", "truck", "trailer", "bus", "bicycle", "motorcycle"))
LONGER = 1.5  # times as long as wide; the shortest of them are 2.4 times on average
FEWEST = 10  # vehicles that decide which convention a file has


def read_infos(path: Path) -> Any:
    """The content of an info file; DataError if it is missing, damaged or not plain data."""
    try:
        return load_plain_pickle(read_bytes(path))
    except pickle.UnpicklingError as error:
        raise DataError(f"{path}: not accepted as an info file ({error})") from None


def info_path(root: Path, file: str) -> Path:
    """The info file; configs of MMDetection3D 0.x write the root in front of its name."""
    written = Path(file)
    return written if written.is_relative_to(root) else root / written


def info_samples(
    path: Path,
    box_convention: str | None = None,
    use_valid_flag: bool = False,
    data_prefix: Mapping[str, str] | None = None,
) -> Sequence[SampleRecord]:
    """The samples of an info file. `box_convention` "0.x" is MMDetection3D before 1.0.

    By default it is "0.x" for files of layout 1 with `can_bus`, which BEVFormer's converter writes,
    and for those whose vehicles would be wider than long; else "1.x".
    """
    if box_convention not in (None, "0.x", "1.x"):
        raise DataError(f"box_convention is '0.x' or '1.x', got {box_convention!r}")
    content = read_infos(path)
    old_boxes = None if box_convention is None else box_convention == "0.x"
    settings = InfoSettings(old_boxes, use_valid_flag, data_prefix or {})
    if not isinstance(content, Mapping) or not {"infos", "data_list"} & content.keys():
        found = sorted(map(str, content)) if isinstance(content, Mapping) else type(content)
        raise DataError(
            f"{path}: not a nuScenes info file: accepted are a dict with `infos` (MMDetection3D "
            f"up to 1.0) and one with `data_list` (from 1.1 on); got {str(found)[:200]}"
        )
    with content_of(path, "a nuScenes info file"):
        return _records(path, Fields(content, str(path)), settings)


def _records(path: Path, top: Fields, settings: InfoSettings) -> list[SampleRecord]:
    if "data_list" in top.content:
        names = _categories(top)
        infos = _samples(path, top.list("data_list"), "data_list")
        return [from_layout2(info, names, settings) for info in infos]
    infos = _samples(path, top.list("infos"), "infos")
    if all(info.has("timestamp") for info in infos):
        infos.sort(key=lambda info: float(info.numbers("timestamp", ())))
    if settings.old_boxes is None:
        settings = replace(settings, old_boxes=has_old_boxes(infos))
        if settings.old_boxes:
            logger.info("%s: read as boxes of before MMDetection3D 1.0 (box_convention)", path)
    return [from_layout1(info, settings) for info in infos]


def has_old_boxes(infos: Sequence[Fields]) -> bool:
    """Whether samples of layout 1 have can_bus, or vehicles whose second side is the longer one."""
    if any(info.has("can_bus") for info in infos):
        return True
    longer, vehicles = 0, 0
    for info in infos:
        if info.has("gt_boxes"):
            named = np.array([str(name) in LONG for name in info.list("gt_names")], bool)
            boxes = info.numbers("gt_boxes", (-1, 7), (-1, 9))
            if len(boxes) == len(named):
                longer += int((boxes[named, 4] > boxes[named, 3] * LONGER).sum())
                vehicles += int(named.sum())
    return vehicles >= FEWEST and longer > vehicles / 2


def _samples(path: Path, infos: Sequence[Any], key: str) -> list[Fields]:
    return [Fields.of(info, f"{path}, {key}[{at}]") for at, info in enumerate(infos)]


def _categories(top: Fields) -> dict[int, str]:
    """The names of the classes by number."""
    about = top.dict("metainfo") if top.has("metainfo") else Fields({}, top.where)
    if about.has("categories"):
        given = about.dict("categories")
        return {int(given.numbers(name, ())): str(name) for name in given.content}
    return dict(enumerate(map(str, about.list("classes") or CATEGORIES)))
