"""Reads MMDetection3D's nuScenes info files, of both layouts, without executing pickled code.

Layout 1 (`infos`) is that of MMDetection3D up to 1.0, layout 2 (`data_list`) that from 1.1 on.
"""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cupola.data.nuscenes_samples import CameraView, SampleRecord, pinhole
from cupola.errors import DataError
from cupola.files import load_plain_pickle
from cupola.files.opening import read_bytes

Array = NDArray[np.float64]


def read_infos(path: Path) -> Any:
    """The content of an info file; DataError if it is missing, damaged or not plain data."""
    try:
        return load_plain_pickle(read_bytes(path))
    except pickle.UnpicklingError as error:
        raise DataError(f"{path}: not accepted as an info file ({error})") from None


def info_samples(path: Path, box_convention: str = "1.x") -> Sequence[SampleRecord]:
    """The samples of an info file. `box_convention` "0.x" is MMDetection3D before 1.0."""
    if box_convention not in ("0.x", "1.x"):
        raise DataError(f"box_convention is '0.x' or '1.x', got {box_convention!r}")
    content = read_infos(path)
    try:
        if "data_list" in content:
            names = {number: name for name, number in content["metainfo"]["categories"].items()}
            return [_from_layout2(info, names) for info in content["data_list"]]
        infos = sorted(content["infos"], key=lambda info: info["timestamp"])
        return [_from_layout1(info, box_convention == "0.x") for info in infos]
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: not a nuScenes info file, {error!r} is missing") from None


def _from_layout1(info: dict[str, Any], old: bool) -> SampleRecord:
    cameras = []
    for name, camera in info["cams"].items():
        turn = np.linalg.inv(camera["sensor2lidar_rotation"])
        lidar2cam = np.eye(4)
        lidar2cam[:3, :3] = turn
        lidar2cam[:3, 3] = -turn @ np.asarray(camera["sensor2lidar_translation"])
        matrix = pinhole(np.asarray(camera["cam_intrinsic"]), lidar2cam)
        cameras.append(CameraView(name, _relative(camera["data_path"]), matrix))
    names, boxes = list(info.get("gt_names", ())), np.asarray(info.get("gt_boxes", ()), float)
    boxes = boxes.reshape(-1, 7)
    velocity = np.asarray(info.get("gt_velocity", np.zeros((len(boxes), 2))), float)
    valid = np.asarray(info.get("valid_flag", np.ones(len(boxes), bool)), bool)
    if old:  # (w, l, h) and a clockwise yaw
        boxes = np.column_stack((boxes[:, [0, 1, 2, 4, 3, 5]], -boxes[:, 6] - np.pi / 2))
    joined = np.column_stack((boxes, np.nan_to_num(velocity.reshape(-1, 2))))
    kept = [name for name, ok in zip(names, valid, strict=True) if ok]
    return SampleRecord(info["token"], tuple(cameras), kept, joined[valid])


def _from_layout2(info: dict[str, Any], names: dict[int, str]) -> SampleRecord:
    cameras = []
    for name, camera in info["images"].items():
        matrix = pinhole(
            np.asarray(camera["cam2img"], float)[:3, :3], np.asarray(camera["lidar2cam"], float)
        )
        cameras.append(CameraView(name, _samples(name, camera["img_path"]), matrix))
    valid = [one for one in info.get("instances", ()) if one.get("bbox_3d_isvalid", True)]
    boxes = [[*one["bbox_3d"], *np.nan_to_num(one["velocity"])] for one in valid]
    kept = [names.get(one["bbox_label_3d"], "ignored") for one in valid]
    array = np.array(boxes, float).reshape(-1, 9)
    return SampleRecord(str(info["token"]), tuple(cameras), kept, array)


def _relative(file: str) -> str:
    """The path as stored by the converter -> the path relative to the root of the data set."""
    parts = Path(file).parts
    starts = [at for at, part in enumerate(parts) if part in ("samples", "sweeps")]
    return str(Path(*parts[starts[-1] :])) if starts else file


def _samples(camera: str, file: str) -> str:
    """Layout 2 stores bare file names; their folder is in the config's data_prefix."""
    return file if "/" in file else f"samples/{camera}/{file}"
