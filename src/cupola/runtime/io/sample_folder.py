"""Sample folders: the images of calibrated cameras at one moment, on disk.

A folder holds the images and `sample.json`:
{"cameras": [{"name", "file", "lidar2img": 4 x 4}, ...]}, in the order of the model's cameras, and
for models of streams "ego_pose" (4 x 4, lidar to a frame that does not move), "timestamp" (s) and
"can_bus" (18 numbers, see structures/can_bus.py).
A bundle's `example` folder is one, and its folders 1, 2, ... are further ones.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cupola.errors import InputError
from cupola.files import locate, read_settings
from cupola.files.images import read_image
from cupola.structures.can_bus import CAN_BUS

Pixels = NDArray[np.uint8]
SAMPLE = "sample.json"
LATEST = 1e11  # seconds, the year 5138; milliseconds since 1973 are more
STRETCH = 0.1  # of the third row; published augmentations scale scenes by up to 0.05
SMALLEST = 1e-6  # determinant of a projection's rows of length 1; a pinhole camera's is above 0.01


def read_sample(folder: Path) -> tuple[list[Pixels], NDArray[np.float32]]:
    """Images and matrices [N, 4, 4] of a sample folder; InputError names what is wrong in it."""
    return read_named_sample(folder)[:2]


def read_named_sample(folder: Path) -> tuple[list[Pixels], NDArray[np.float32], list[str]]:
    """Images, matrices [N, 4, 4] and names of the cameras of a sample folder.

    InputError names what is wrong in it. Where not all cameras have a name there are no names.
    """
    path = folder / SAMPLE
    try:
        cameras = read_settings(path, InputError)["cameras"]
        files = [str(camera["file"]) for camera in cameras]
        matrices = [camera["lidar2img"] for camera in cameras]
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: not a sample of cameras ({error!r})") from None
    images = [read_image(locate(folder, file, InputError)) for file in files]
    names = [str(camera["name"]) for camera in cameras if camera.get("name")]
    named = names if len(names) == len(cameras) else []
    return images, read_matrices(matrices, len(images)), named


class Moment(NamedTuple):
    """The arguments of Detection3DPredictor.sample, from a sample folder."""

    images: list[Pixels]
    lidar2img: NDArray[np.float32]
    names: list[str]
    ego_pose: Any = None
    timestamp: Any = None
    can_bus: Any = None


def read_moment(folder: Path) -> Moment:
    """Images, matrices, camera names, and if they are there ego_pose, timestamp and can_bus."""
    images, matrices, names = read_named_sample(folder)
    about = read_settings(folder / SAMPLE, InputError)
    motion = (about.get(name) for name in ("ego_pose", "timestamp", "can_bus"))
    return Moment(images, matrices, names, *motion)


def read_pose(value: Any) -> NDArray[np.float64]:
    """Numbers in any nesting -> a rigid transform [4, 4]; InputError otherwise."""
    try:
        pose = np.array(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"ego_pose: not numbers ({error})") from None
    if pose.size != 16:
        raise InputError(f"ego_pose: expected [4, 4], got {list(pose.shape)}")
    pose = pose.reshape(4, 4)
    turn = pose[:3, :3]
    rigid = np.allclose(turn @ turn.T, np.eye(3), atol=1e-3) and np.linalg.det(turn) > 0
    if not (rigid and np.isfinite(pose).all() and np.allclose(pose[3], [0, 0, 0, 1])):
        raise InputError("ego_pose: expected a rotation and a shift, lidar to a fixed frame")
    return pose


def read_timestamp(value: Any) -> float:
    """Seconds; InputError otherwise."""
    try:
        seconds = float(np.asarray(value, dtype=np.float64).reshape(()))
    except (TypeError, ValueError):
        raise InputError("timestamp: expected one number of seconds") from None
    if not np.isfinite(seconds):
        raise InputError("timestamp: expected a finite number of seconds")
    if abs(seconds) > LATEST:
        raise InputError(
            f"timestamp: {seconds:g} is too much for seconds; nuScenes' microseconds are to be "
            "divided by 1e6"
        )
    return seconds


def read_can_bus(value: Any) -> NDArray[np.float64]:
    """Finite numbers [18] with a rotation of length 1; InputError otherwise."""
    try:
        numbers = np.array(value, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError) as error:
        raise InputError(f"can_bus: not numbers ({error})") from None
    if numbers.size != CAN_BUS or not np.isfinite(numbers).all():
        raise InputError(
            f"can_bus: expected {CAN_BUS} finite numbers, got {numbers.tolist()!s:.60}"
        )
    if abs(np.linalg.norm(numbers[3:7]) - 1) > 1e-2:
        raise InputError("can_bus: numbers 3 to 6 should be a quaternion (w, x, y, z) of length 1")
    return numbers


def read_matrices(value: Any, cameras: int) -> NDArray[np.float32]:
    """Numbers in any nesting -> projections [cameras, 4, 4]; InputError otherwise."""
    try:
        matrices = np.array(value, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"lidar2img: not numbers ({error})") from None
    if matrices.size != cameras * 16:
        raise InputError(
            f"lidar2img: expected [{cameras}, 4, 4], one matrix per camera, got "
            f"{list(matrices.shape)}"
        )
    matrices = matrices.reshape(cameras, 4, 4)
    broken = np.flatnonzero(~np.isfinite(matrices).all((1, 2)))
    if len(broken):
        raise InputError(f"lidar2img: camera {broken[0]} has a matrix with NaN or infinity")
    for camera, matrix in enumerate(matrices.astype(np.float64)):
        _check_projection(camera, matrix)
    return matrices


def _check_projection(camera: int, matrix: NDArray[np.float64]) -> None:
    """InputError for a matrix [4, 4] that cannot be a pinhole camera's."""
    if not np.allclose(matrix[3], [0, 0, 0, 1], atol=1e-3):
        raise InputError(
            f"lidar2img: the last row of camera {camera} is {matrix[3].tolist()}, expected "
            "[0, 0, 0, 1]; is the matrix transposed?"
        )
    rows = matrix[:3, :3]
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    depth = lengths[2].item()
    if depth > 0 and abs(depth - 1) > STRETCH:
        raise InputError(
            f"lidar2img: the third row of camera {camera} has length {depth:g} without its shift, "
            "expected 1, so that it gives the depth in meters; divide the first three rows by it"
        )
    if not lengths.all() or abs(np.linalg.det(rows / lengths)) < SMALLEST:
        raise InputError(
            f"lidar2img: the matrix of camera {camera} is singular; expected intrinsics (4 x 4) @ "
            "lidar to camera (4 x 4)"
        )


def example_folders(bundle: Path | None) -> list[Path]:
    """The sample folders in a bundle, its first example first."""
    if bundle is None:
        return []
    first = bundle / "example"
    further = sorted(
        (path.parent for path in first.glob(f"*/{SAMPLE}") if path.parent.name.isdecimal()),
        key=lambda folder: int(folder.name),
    )
    return [folder for folder in (first, *further) if (folder / SAMPLE).is_file()]
