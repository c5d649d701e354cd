"""Files of proposals: what an RPN found in each image of a data set, for a Fast R-CNN.

MMDetection 3.x writes a pickle of a dict: InstanceData with bboxes and scores by
"val2017/000000000139.jpg", a file with its folder. 2.x writes a list of arrays [R, 4 or 5] in the
order of the data set. JSON may hold either, with lists for arrays.
"""

import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cupola.errors import DataError
from cupola.files.opening import read_bytes
from cupola.files.pickles import load_plain_pickle

LARGEST = 2**31  # bytes; 1,000 proposals for each of COCO's training images are 2 GB
LARGEST_SIDE = 1e7  # pixels
Boxes = NDArray[np.float32]


class Fields(dict[str, Any]):
    """The fields of an InstanceData in a pickle."""

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise pickle.UnpicklingError("an InstanceData is damaged")
        self.update(state)


KNOWN = {
    f"{module}.InstanceData": Fields
    for module in ("mmengine.structures", "mmengine.structures.instance_data")
}


@dataclass(frozen=True)
class Proposals:
    """Boxes [R, 4] xyxy in pixels of the images, best first: by file name, or in their order."""

    source: str
    by_name: Mapping[str, Boxes] | None = None
    in_order: Sequence[Boxes] = ()

    def find(self, path: str | Path | None, index: int | None = None) -> Boxes:
        """The boxes of an image, by the name of its file and folder, else by its number.

        DataError if there are none.
        """
        if self.by_name is None:
            if index is not None and index < len(self.in_order):
                return self.in_order[index]
            if index is None and len(self.in_order) == 1:
                return self.in_order[0]
            what = "which of them an image has is not known" if index is None else f"none {index}"
            raise DataError(f"{self.source}: has {len(self.in_order)} images in order, {what}")
        parts = Path(path or "").parts
        names = ["/".join(parts[-count:]) for count in (2, 1, len(parts))]
        for name in names:
            if name in self.by_name:
                return self.by_name[name]
        some = ", ".join(list(self.by_name)[:3])
        raise DataError(f"{self.source}: has no proposals for {names[0]!r}; it has {some}, ...")


def read_proposals(path: Path) -> Proposals:
    """The proposals of a .pkl or .json file; nothing in it is executed. DataError."""
    data = read_bytes(path, LARGEST)
    if len(data) > LARGEST:
        raise DataError(f"{path}: is larger than the {LARGEST} bytes that are read")
    try:
        content = json.loads(data) if path.suffix == ".json" else load_plain_pickle(data, KNOWN)
    except pickle.UnpicklingError as error:
        raise DataError(f"{path}: not a pickle of proposals ({error})") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({error!s:.80})") from None
    if isinstance(content, dict):
        found = {str(name): _boxes(each, f"{path}: {name!r:.80}") for name, each in content.items()}
        return Proposals(str(path), found)
    if isinstance(content, list | tuple):
        rows = [_boxes(each, f"{path}: image {i}") for i, each in enumerate(content)]
        return Proposals(str(path), None, rows)
    raise DataError(
        f"{path}: expected a list of boxes for each image, or a dict of them by file name, found "
        f"a {type(content).__name__}"
    )


def _boxes(value: Any, where: str) -> Boxes:
    """An array [R, 4 or 5], or the fields of an InstanceData, as boxes."""
    if isinstance(value, dict):
        if "bboxes" not in value:
            raise DataError(f"{where}: has no bboxes")
        value = value["bboxes"]
    return checked_boxes(value, where, DataError)


def checked_boxes(value: Any, where: str, error: type[Exception]) -> Boxes:
    """Boxes [R, 4] of an array or lists [R, 4 or 5], the last a score; `error` for others."""
    try:
        rows = np.asarray(value, np.float32)
    except (TypeError, ValueError):
        raise error(f"{where}: proposals are not numbers") from None
    if rows.size == 0:
        return np.zeros((0, 4), np.float32)
    if rows.ndim != 2 or rows.shape[1] not in (4, 5):
        shape = list(rows.shape)
        raise error(f"{where}: proposals have the shape {shape}; expected [R, 4], or [R, 5]")
    boxes = rows[:, :4]
    if not (np.abs(boxes) < LARGEST_SIDE).all():  # NaN is not
        raise error(f"{where}: proposals are not pixels")
    return np.ascontiguousarray(boxes)
