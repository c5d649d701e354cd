"""The frames of a drive: in memory, in a cache folder, and as sample folders."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cupola.data.driving.rig import Camera
from cupola.errors import DataError


@dataclass(frozen=True)
class Clip:
    """The frames of a drive.

    images: [T, 6, H, W, 3] uint8 RGB. lidar2img, intrinsics, extrinsics (lidar to camera):
    [6, 4, 4]. ego_pose: [T, 4, 4], lidar to the lidar's frame at the start. timestamp: [T],
    seconds. boxes: T arrays [M, 9]; labels: T arrays [M]; agents: T arrays [M], numbers that are
    the same in all frames.
    """

    images: NDArray[np.uint8]
    lidar2img: NDArray[np.float64]
    intrinsics: NDArray[np.float64]
    extrinsics: NDArray[np.float64]
    ego_pose: NDArray[np.float64]
    timestamp: NDArray[np.float64]
    boxes: list[NDArray[np.float32]]
    labels: list[NDArray[np.int64]]
    agents: list[NDArray[np.int64]]


RAGGED = ("boxes", "labels", "agents")


def write_clip(file: Path, clip: Clip, settings: str) -> None:
    """Writes the images as .npy, which can be mapped, and the rest as .npz, both atomically."""
    file.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {name: each for name, each in vars(clip).items() if name not in RAGGED}
    arrays |= {name: np.concatenate(getattr(clip, name)) for name in RAGGED}
    arrays |= {"settings": np.array(settings), "counts": np.array([len(b) for b in clip.boxes])}
    part = file.with_suffix(f".{os.getpid()}")
    with part.open("wb") as images:
        np.save(images, arrays.pop("images"))
    part.replace(file.with_suffix(".npy"))
    with part.open("wb") as rest:
        np.savez(rest, **arrays)
    part.replace(file)


def read_clip(file: Path, settings: str) -> Clip:
    """What write_clip wrote. DataError if it was rendered with other settings."""
    with np.load(file, allow_pickle=False) as found:
        arrays: dict[str, Any] = {name: found[name] for name in found.files}
    if str(arrays.pop("settings")) != settings:
        raise DataError(f"{file}: it was rendered with other settings; empty the cache folder")
    ends = np.cumsum(arrays.pop("counts"))[:-1]
    arrays |= {name: np.split(arrays[name], ends) for name in RAGGED}
    images = np.load(file.with_suffix(".npy"), mmap_mode="r", allow_pickle=False)
    return Clip(images=images, **arrays)


def write_moment(folder: Path, clip: Clip, rig: Iterable[Camera], t: int) -> None:
    """Writes a frame as a sample folder for `cupola predict`: six PNGs and sample.json."""
    folder.mkdir(parents=True, exist_ok=True)
    cameras = []
    for pixels, camera in zip(clip.images[t], rig, strict=True):
        file = f"{camera.name}.png"
        Image.fromarray(pixels).save(folder / file)
        cameras.append({"name": camera.name, "file": file, "lidar2img": camera.lidar2img.tolist()})
    moment = {"ego_pose": clip.ego_pose[t].tolist(), "timestamp": float(clip.timestamp[t])}
    text = json.dumps({"cameras": cameras, **moment}, indent=1)
    (folder / "sample.json").write_text(text + "\n", encoding="utf-8")
