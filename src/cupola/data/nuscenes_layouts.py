"""One sample of an info file of MMDetection3D, in the layout of its version.

Layout 1 is that of MMDetection3D up to 1.0, layout 2 that from 1.1 on.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PureWindowsPath

import numpy as np
from numpy.typing import NDArray

from cupola.data.info_fields import Fields
from cupola.data.nuscenes_samples import CameraView, SampleRecord, cut_paths, pinhole, rigid
from cupola.data.nuscenes_sweeps import MICROSECONDS, InfoSweeps
from cupola.data.nuscenes_tables import rotation
from cupola.errors import DataError
from cupola.structures.can_bus import CAN_BUS, SIGNALS, can_bus_of

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

SMALLEST = 1e-6  # determinant; that of a rotation is 1


@dataclass(frozen=True)
class InfoSettings:
    """How an info file is read.

    old_boxes: its boxes are those of MMDetection3D before 1.0; None where the content is to tell
    it. use_valid_flag: keep the objects that it flags as valid (a lidar or radar point), not those
    with a lidar point. data_prefix: layout 2's folder of the images by camera, or by "img" for all.
    """

    old_boxes: bool | None = False
    use_valid_flag: bool = False
    data_prefix: Mapping[str, str] = field(default_factory=dict)


def _token(info: Fields) -> str:
    return str(info.content.get("token") or info.need("sample_idx"))


def from_layout1(info: Fields, settings: InfoSettings) -> SampleRecord:
    cams = info.dict("cams")
    cameras = tuple(_camera1(str(name), cams.dict(name)) for name in cams.content)
    names = [str(name) for name in info.list("gt_names")]
    if info.has("gt_boxes"):
        joined = info.numbers("gt_boxes", (-1, 7), (-1, 9))
    else:
        joined = np.zeros((0, 7))
    if len(names) != len(joined):
        raise DataError(f"{info.at('gt_names')} has {len(names)} names for {len(joined)} boxes")
    velocity = None
    if info.has("gt_velocity"):
        velocity = info.numbers("gt_velocity", (-1, 2), (-1, 3))[:, :2]
    boxes = _boxes(info, joined, velocity)
    if settings.old_boxes:  # (w, l, h) and a clockwise yaw
        turned = -boxes[:, 6] - np.pi / 2
        boxes = np.column_stack((boxes[:, [0, 1, 2, 4, 3, 5]], turned, boxes[:, 7:]))
    kept = _kept(info, len(boxes), settings.use_valid_flag, "valid_flag")
    for at in kept.nonzero()[0]:
        _check_finite(f"{info.at('gt_boxes')}[{at}]", boxes[at, :7])
    return SampleRecord(
        _token(info),
        cameras,
        [name for name, ok in zip(names, kept, strict=True) if ok],
        boxes[kept],
        _pose1(info, "lidar2ego"),
        _pose1(info, "ego2global"),
        str(info.content.get("scene_token") or ""),
        _can_bus(info),
        _seconds(info),
        InfoSweeps(info),
    )


def _seconds(stamped: Fields) -> float | None:
    known = stamped.has("timestamp")
    return float(stamped.numbers("timestamp", ())) / MICROSECONDS if known else None


def _can_bus(info: Fields) -> Array | None:
    """BEVFormer's numbers, whose position and rotation its data set takes from ego2global."""
    if not info.has("can_bus"):
        return None
    stored = info.numbers("can_bus", (CAN_BUS,))
    turn = info.numbers("ego2global_rotation", (4,))
    place = info.numbers("ego2global_translation", (3,))
    if not np.isfinite(stored).all() or abs(np.linalg.norm(turn) - 1) > 1e-2:
        raise DataError(f"{info.at('can_bus')} or ego2global_rotation is not what BEVFormer writes")
    return can_bus_of(place, turn, stored[SIGNALS])


def _camera1(name: str, camera: Fields) -> CameraView:
    rotated = camera.numbers("sensor2lidar_rotation", (3, 3))
    if not np.isfinite(rotated).all() or abs(np.linalg.det(rotated)) < SMALLEST:
        raise DataError(f"{camera.at('sensor2lidar_rotation')} is not a rotation")
    turn = np.linalg.inv(rotated).astype(np.float64)
    place = camera.numbers("sensor2lidar_translation", (3,))
    intrinsic = camera.numbers("cam_intrinsic", (3, 3), (3, 4), (4, 4))[:3, :3]
    stored = camera.text("data_path")
    matrix = pinhole(intrinsic, rigid(turn, -turn @ place))
    _check_finite(camera.where, matrix)
    file = next(iter(cut_paths(stored)), stored)
    return CameraView(name, file, matrix, stored, _seconds(camera))


def _check_finite(where: str, values: Array) -> None:
    if not np.isfinite(values).all():
        raise DataError(f"{where} has NaN or infinity: {values.tolist()}")


def _pose1(info: Fields, name: str) -> Array | None:
    if not info.has(f"{name}_rotation") or not info.has(f"{name}_translation"):
        return None
    turn = info.numbers(f"{name}_rotation", (4,), (3, 3))
    matrix = rotation(turn.tolist()).as_matrix() if turn.ndim == 1 else turn
    return rigid(matrix, info.numbers(f"{name}_translation", (3,)))


def _boxes(info: Fields, boxes: Array, velocity: Array | None) -> Array:
    """[M, 9]. A velocity of its own is preferred to columns 7 and 8; NaN without either."""
    if velocity is None:
        unknown = np.full((len(boxes), 2), np.nan)
        velocity = boxes[:, 7:9] if boxes.shape[1] == 9 else unknown
    if len(velocity) != len(boxes):
        raise DataError(f"{info.at('gt_velocity')} has {len(velocity)} rows for {len(boxes)} boxes")
    return np.column_stack((boxes[:, :7], velocity))


def _kept(info: Fields, count: int, use_valid_flag: bool, flag: str) -> Flags:
    """Which objects are used; without counts of lidar points those that are flagged as valid."""
    key = flag if use_valid_flag or not info.has("num_lidar_pts") else "num_lidar_pts"
    if not info.has(key):
        return np.ones(count, bool)
    found = info.numbers(key, (-1,))
    if len(found) != count:
        raise DataError(f"{info.at(key)} has {len(found)} values for {count} boxes")
    return found > 0


def from_layout2(info: Fields, names: Mapping[int, str], settings: InfoSettings) -> SampleRecord:
    images = info.dict("images")
    cameras = tuple(
        _camera2(str(name), images.dict(name), settings.data_prefix)
        for name in images.content
        if images.dict(name).has("img_path")
    )
    kept, boxes = [], []
    for at, one in enumerate(info.list("instances")):
        instance = Fields.of(one, info.where, f"instances[{at}]")
        if not _is_kept(instance, settings.use_valid_flag):
            continue
        row = instance.numbers("bbox_3d", (7,), (9,))[None]
        _check_finite(instance.at("bbox_3d"), row[0, :7])
        velocity = None
        if instance.has("velocity"):
            velocity = instance.numbers("velocity", (2,), (3,))[None, :2]
        boxes.append(_boxes(instance, row, velocity)[0])
        kept.append(names.get(int(instance.numbers("bbox_label_3d", ())), "ignored"))
    array = np.array(boxes, float).reshape(-1, 9)
    lidar = info.dict("lidar_points") if info.has("lidar_points") else Fields({}, info.where)
    return SampleRecord(
        _token(info),
        cameras,
        kept,
        array,
        lidar.transform("lidar2ego") if lidar.has("lidar2ego") else None,
        info.transform("ego2global") if info.has("ego2global") else None,
    )


def _is_kept(instance: Fields, use_valid_flag: bool) -> bool:
    valid = bool(instance.content.get("bbox_3d_isvalid", True))
    points = instance.content.get("num_lidar_pts")
    return valid if use_valid_flag or points is None else bool(points > 0)


def _camera2(name: str, image: Fields, prefix: Mapping[str, str]) -> CameraView:
    if image.has("cam2img") or not image.has("lidar2img"):
        intrinsic = image.numbers("cam2img", (3, 3), (3, 4), (4, 4))[:3, :3]
        matrix = pinhole(intrinsic, image.transform("lidar2cam"))
    else:
        matrix = image.numbers("lidar2img", (4, 4))
    _check_finite(image.where, matrix)
    stored = image.text("img_path")
    folder = prefix.get(name, prefix.get("img", ""))
    if folder and not PureWindowsPath(stored).anchor:
        stored = f"{folder.rstrip('/')}/{stored}"
    if "/" in stored or "\\" in stored:
        return CameraView(name, next(iter(cut_paths(stored)), stored), matrix, stored)
    # Bare names are below the folder that the published configs' data_prefix names.
    return CameraView(name, f"samples/{name}/{stored}", matrix, stored)
