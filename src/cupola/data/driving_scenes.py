"""driving-scenes: generated streets as a dataset of six calibrated images and 3-D boxes.

Sample i is a function of (seed, split, i) alone, so a resumed run sees the same samples as an
uninterrupted one. Sizes vary, so distance can only be inferred from geometry: from where an object
touches the ground, the mounting of the cameras and, near the seams, from two cameras at once.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from cupola.data.detection3d import collate_detection3d
from cupola.data.driving import (
    CAMERA_NAMES,
    CLASS_NAMES,
    Scene,
    SceneStyle,
    camera_rig,
    make_scene,
    render,
)
from cupola.data.driving.rig import Camera
from cupola.errors import DataError
from cupola.registry import DATASETS
from cupola.structures import normalize

SPLITS = ("train", "val")
MEAN = (110.0, 118.0, 122.0)  # of these images, RGB, 0..255
STD = (52.0, 50.0, 58.0)
EXAMPLES = 4  # sample folders in a bundle
MIN_PIXELS = 8  # agents with fewer visible pixels in all cameras together are not targets


def scene_at(
    seed: int, split: str, index: int, size: tuple[int, int], style: SceneStyle | None = None
) -> tuple[Scene, list[Camera]]:
    """Scene number `index` and the cameras of the ego vehicle."""
    if split not in SPLITS:
        raise DataError(f"unknown split {split!r}; use one of {SPLITS}")
    rng = np.random.default_rng((seed, SPLITS.index(split), index))
    return make_scene(rng, style), camera_rig(size, rng)


def write_sample(folder: Path, scene: Scene, rig: Sequence[Camera], size: tuple[int, int]) -> None:
    """Writes a sample folder for `cupola predict`: six PNGs and sample.json."""
    folder.mkdir(parents=True, exist_ok=True)
    cameras = []
    for camera in rig:
        file = f"{camera.name}.png"
        Image.fromarray(render(scene, camera, size).pixels).save(folder / file)
        cameras.append({"name": camera.name, "file": file, "lidar2img": camera.lidar2img.tolist()})
    text = json.dumps({"cameras": cameras}, indent=1)
    (folder / "sample.json").write_text(text + "\n", encoding="utf-8")


@dataclass(frozen=True)
class SceneImages:
    """images [6, H, W, 3] uint8 RGB, lidar2img [6, 4, 4], boxes [M, 9], labels [M]."""

    images: NDArray[np.uint8]
    lidar2img: NDArray[np.float32]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]


# Mirroring swaps the cameras on the left with those on the right.
OPPOSITE = {"LEFT": "RIGHT", "RIGHT": "LEFT"}
MIRRORED_CAMERAS = [
    CAMERA_NAMES.index("_".join(OPPOSITE.get(word, word) for word in name.split("_")))
    for name in CAMERA_NAMES
]


def mirrored(drawn: SceneImages) -> SceneImages:
    """The same scene mirrored left to right: images, matrices, boxes."""
    width = drawn.images.shape[2]
    turn_image = np.array([[-1, 0, width, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    turn_world = np.diag([-1.0, 1.0, 1.0, 1.0])
    matrices = turn_image @ drawn.lidar2img[MIRRORED_CAMERAS] @ turn_world
    boxes = drawn.boxes * np.array([-1, 1, 1, 1, 1, 1, -1, -1, 1], np.float32)
    boxes[:, 6] += np.float32(np.pi)
    return SceneImages(
        np.ascontiguousarray(drawn.images[MIRRORED_CAMERAS, :, ::-1]),
        matrices.astype(np.float32),
        boxes,
        drawn.labels,
    )


@DATASETS.register_module()
class DrivingScenes:
    """Sample i -> {"images": [6, 3, H, W], "lidar2img": [6, 4, 4], "boxes": [M, 9], ...}.

    Boxes are (x, y, z of the bottom, l, w, h, yaw, vx, vy) in the lidar's frame. `count` is the
    nominal length; any index is valid. `size` is (height, width); `style` overrides SceneStyle.
    `keep` caches rendered samples in memory, 0.3 MB each at 96 x 160; `mirror` mirrors every sample
    in every other epoch.
    """

    names = CLASS_NAMES

    def __init__(
        self,
        split: str = "train",
        seed: int = 0,
        count: int = 1_000_000,
        size: tuple[int, int] = (96, 160),
        style: dict[str, Any] | None = None,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
        min_pixels: int = MIN_PIXELS,
        keep: bool = False,
        mirror: bool = False,
    ) -> None:
        self.split, self.seed, self.count = split, seed, count
        self.size = (size[0], size[1])
        self.style = SceneStyle(**(style or {}))
        self.mean, self.std = tuple(mean), tuple(std)
        self.min_pixels = min_pixels
        self.mirror, self.epoch = mirror, 0
        self._drawn: dict[int, SceneImages] | None = {} if keep else None

    def __len__(self) -> int:
        return self.count

    def set_epoch(self, epoch: int) -> None:
        """Selects which half of the samples is mirrored; called by the training loop."""
        self.epoch = epoch

    def draw(self, index: int) -> SceneImages:
        """Renders sample number `index`, before normalization."""
        if self._drawn is not None and index in self._drawn:
            return self._drawn[index]
        scene, cameras = scene_at(self.seed, self.split, index, self.size, self.style)
        views = [render(scene, camera, self.size) for camera in cameras]
        pixels = np.sum([view.visible(len(scene.agents)) for view in views], axis=0)
        seen = [
            a for a, count in zip(scene.agents, pixels, strict=True) if count >= self.min_pixels
        ]
        drawn = SceneImages(
            np.stack([view.pixels for view in views]),
            np.stack([camera.lidar2img for camera in cameras]).astype(np.float32),
            np.array([agent.box for agent in seen], np.float32).reshape(-1, 9),
            np.array([agent.label for agent in seen], np.int64),
        )
        if self._drawn is not None:
            self._drawn[index] = drawn
        return drawn

    def __getitem__(self, index: int) -> dict[str, Any]:
        drawn = self.draw(index)
        if self.mirror and (index + self.epoch) % 2:
            drawn = mirrored(drawn)
        pixels = torch.from_numpy(drawn.images).permute(0, 3, 1, 2).contiguous()  # [6, 3, H, W]
        return {
            "images": normalize(pixels, self.mean, self.std),
            "lidar2img": torch.from_numpy(drawn.lidar2img),
            "boxes": torch.from_numpy(drawn.boxes),
            "labels": torch.from_numpy(drawn.labels),
            "token": f"{self.split}-{self.seed}-{index}",
        }

    def write_examples(self, folder: Path, count: int = EXAMPLES) -> None:
        """Writes the first samples for a bundle's `example`: one in it, the others in 1, 2, ...

        request.json next to them asks for the first one.
        """
        for index in range(count):
            scene, rig = scene_at(self.seed, self.split, index, self.size, self.style)
            write_sample(folder / str(index) if index else folder, scene, rig, self.size)
        request = {"inputs": [], "parameters": {"example": 0}}
        (folder / "request.json").write_text(json.dumps(request) + "\n", encoding="utf-8")

    collate = staticmethod(collate_detection3d)
