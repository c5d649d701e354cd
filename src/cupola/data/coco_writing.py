"""Writes digits-in-photos as a COCO folder."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cupola.data.digits import DIGIT_NAMES, DigitsInPhotos
from cupola.errors import DataError
from cupola.structures.masks import encode_rle


def write_digits(dataset: DigitsInPhotos, folder: Path) -> Path:
    """Writes `images/000000.png`, ... and `instances.json`; returns the latter.

    Category ids are the digits plus 1, since COCO counts from 1. The folder is moved into place
    when it is complete. Raises DataError if `folder` exists.
    """
    if folder.exists():
        raise DataError(f"{folder} exists already; remove it or name another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        draft = Path(temporary) / "draft"
        (draft / "images").mkdir(parents=True)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index in range(len(dataset)):
            image = dataset.compose(index)
            name = f"{index:06d}.png"
            Image.fromarray(image.pixels).save(draft / "images" / name)
            size = {"width": dataset.size, "height": dataset.size}
            images.append({"id": index + 1, "file_name": name, **size})
            rows = zip(image.boxes.tolist(), image.labels.tolist(), image.masks, strict=True)
            for box, label, mask in rows:
                number = len(annotations) + 1
                annotations.append(_annotation(number, index + 1, label + 1, box, mask))
        content = {
            "info": {
                "description": f"digits-in-photos, {dataset.split}, seed {dataset.seed}",
                "version": "1.0",
            },
            "licenses": [],
            "images": images,
            "annotations": annotations,
            "categories": [
                {"id": label + 1, "name": name, "supercategory": "digit"}
                for label, name in enumerate(DIGIT_NAMES)
            ],
        }
        (draft / "instances.json").write_text(json.dumps(content))
        shutil.move(draft, folder)
    return folder / "instances.json"


def _annotation(
    number: int, image: int, category: int, box: list[float], mask: NDArray[np.bool_]
) -> dict[str, Any]:
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": [left, top, width, height],
        "area": width * height,  # of the box, as in the figures of the bundles' cards
        "iscrowd": 0,
        "segmentation": encode_rle(mask),
    }
