"""driving-streets: drives through generated streets, frame after frame, as six images and boxes.

The ego and the agents move, so velocities can be seen. Clip i is a function of (seed, split, i)
alone.
"""

import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cupola.data.detection3d import collate_detection3d
from cupola.data.driving import CLASS_NAMES, Scene, SceneStyle, camera_rig, make_traffic, render
from cupola.data.driving.clip import Clip, read_clip, write_clip, write_moment
from cupola.data.driving.rig import Camera
from cupola.data.driving_scenes import MEAN, MIN_PIXELS, SPLITS, STD
from cupola.errors import DataError
from cupola.registry import DATASETS
from cupola.structures import normalize

Array = NDArray[np.float64]

PERIOD = 0.5  # seconds between frames, as between the key frames of nuScenes
STYLE = SceneStyle(fewest=7, most=16)  # of a whole drive
KEPT = 32  # drives in memory: batches take frames of many drives in turn
EXAMPLE_CLIP = 0  # the drive in a bundle


def _calibration(rig: Sequence[Camera]) -> tuple[Array, Array, Array]:
    """lidar2img, intrinsics and extrinsics, each [6, 4, 4]."""
    lidar2img = np.stack([camera.lidar2img for camera in rig])
    intrinsics = np.tile(np.eye(4), (len(rig), 1, 1))
    intrinsics[:, :3, :3] = [camera.intrinsic for camera in rig]
    extrinsics = np.linalg.inv(intrinsics) @ lidar2img
    return lidar2img, intrinsics, extrinsics


def _seen(
    now: Scene, pixels: NDArray[np.int64], least: int, reach: float
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Boxes, labels and numbers of the agents with enough pixels within reach."""
    kept = [
        number
        for number, agent in enumerate(now.agents)
        if pixels[number] >= least and np.hypot(*agent.position[:2]) < reach
    ]
    boxes = np.array([now.agents[k].box for k in kept], np.float32).reshape(-1, 9)
    labels = np.array([now.agents[k].label for k in kept], np.int64)
    return boxes, labels, np.array(kept, np.int64)


@DATASETS.register_module()
class DrivingStreets:
    """Sample i is frame i % frames of drive i // frames, as DrivingScenes' plus the stream's keys.

    `count` is the number of drives of `frames` frames each, PERIOD apart. `sequences` are the
    indices of each drive. `size` is (height, width); `style` overrides STYLE. Rendered drives are
    kept in the folder `cache`, if given, 3.3 MB each for 12 frames of 96 x 160; `fill_cache`
    renders all of them in parallel.
    """

    names = CLASS_NAMES

    def __init__(
        self,
        split: str = "train",
        seed: int = 0,
        count: int = 1000,
        frames: int = 12,
        size: tuple[int, int] = (96, 160),
        style: dict[str, Any] | None = None,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
        min_pixels: int = MIN_PIXELS,
        cache: str | Path | None = None,
    ) -> None:
        if split not in SPLITS:
            raise DataError(f"unknown split {split!r}; use one of {SPLITS}")
        self.split, self.seed, self.count, self.frames = split, seed, count, frames
        self.size = (size[0], size[1])
        self.style = SceneStyle(**{**asdict(STYLE), **(style or {})})
        self.mean, self.std = tuple(mean), tuple(std)
        self.min_pixels = min_pixels
        self.cache = Path(cache) if cache else None
        self._kept: dict[int, Clip] = {}  # the latest ones

    def __len__(self) -> int:
        return self.count * self.frames

    @property
    def sequences(self) -> list[range]:
        """The indices of every drive, in order."""
        return [range(i, i + self.frames) for i in range(0, len(self), self.frames)]

    def street(self, index: int) -> tuple[Scene, list[Camera]]:
        """Drive number `index` at its start, and the cameras of the ego vehicle."""
        rng = np.random.default_rng((self.seed, SPLITS.index(self.split), index, 1))
        rig = camera_rig(self.size, rng)
        return make_traffic(rng, self.style, (self.frames - 1) * PERIOD), rig

    def render(self, index: int) -> Clip:
        """Draws drive number `index`."""
        street, rig = self.street(index)
        images, seen = [], []
        seconds = np.arange(self.frames) * PERIOD
        for moment in seconds:
            now = street.after(moment)
            views = [render(now, camera, self.size) for camera in rig]
            pixels = np.sum([view.visible(len(now.agents)) for view in views], axis=0)
            images.append(np.stack([view.pixels for view in views]))
            seen.append(_seen(now, pixels, self.min_pixels, self.style.reach))
        boxes, labels, agents = (list(each) for each in zip(*seen, strict=True))
        return Clip(
            np.stack(images),
            *_calibration(rig),
            ego_pose=np.stack([street.ego_pose(moment) for moment in seconds]),
            timestamp=np.asarray(1.5e9 + 1000.0 * index + seconds, np.float64),
            boxes=boxes,
            labels=labels,
            agents=agents,
        )

    def clip(self, index: int) -> Clip:
        """Drive number `index`, from memory, the cache, or drawn."""
        if index not in self._kept:
            if len(self._kept) >= KEPT:
                self._kept.pop(next(iter(self._kept)))
            self._kept[index] = self._load(index)
        return self._kept[index]

    def _file(self, index: int) -> Path:
        assert self.cache is not None
        return self.cache / f"{self.split}-{self.seed}-{index}.npz"

    def _settings(self) -> str:
        shown = (self.split, self.seed, self.frames, self.size, asdict(self.style))
        return json.dumps((*shown, self.min_pixels))

    def _load(self, index: int) -> Clip:
        if self.cache is None:
            return self.render(index)
        file = self._file(index)
        if not file.is_file():
            clip = self.render(index)
            write_clip(file, clip, self._settings())
            return clip
        return read_clip(file, self._settings())

    def fill_cache(self, workers: int) -> None:
        """Renders all drives that `cache` does not have yet, in `workers` processes."""
        if self.cache is None:
            raise DataError("DrivingStreets without a cache folder has nothing to fill")
        missing = [i for i in range(self.count) if not self._file(i).is_file()]
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            for _ in pool.map(self._fill, missing, chunksize=4):
                pass

    def _fill(self, index: int) -> None:
        self._load(index)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, t = divmod(index, self.frames)
        clip = self.clip(number)
        pixels = torch.from_numpy(np.array(clip.images[t])).permute(0, 3, 1, 2)  # [6, 3, H, W]
        name = f"{self.split}-{self.seed}-{number}"
        matrices = {
            "lidar2img": clip.lidar2img,
            "intrinsics": clip.intrinsics,
            "extrinsics": clip.extrinsics,
            "ego_pose": clip.ego_pose[t],
        }
        return {
            "images": normalize(pixels, self.mean, self.std),
            **{key: torch.from_numpy(value).float() for key, value in matrices.items()},
            "timestamp": torch.tensor(clip.timestamp[t], dtype=torch.float64),
            "prev_exists": torch.tensor(float(t > 0)),
            "boxes": torch.from_numpy(clip.boxes[t]),
            "labels": torch.from_numpy(clip.labels[t]),
            "token": f"{name}-{t}",
            "stream": name,
        }

    def write_examples(self, folder: Path) -> None:
        """Writes a drive for a bundle's `example`: the first frame in it, the others in 1, 2, ...

        request.json next to them asks for the first one.
        """
        clip = self.clip(EXAMPLE_CLIP)
        _, rig = self.street(EXAMPLE_CLIP)
        for t in range(self.frames):
            write_moment(folder / str(t) if t else folder, clip, rig, t)
        request = {"inputs": [], "parameters": {"example": 0}}
        (folder / "request.json").write_text(json.dumps(request) + "\n", encoding="utf-8")

    collate = staticmethod(collate_detection3d)
