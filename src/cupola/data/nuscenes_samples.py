"""The content of one nuScenes sample, independent of the file that describes it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cupola.errors import DataError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class CameraView:
    """file: relative to the data set's root. lidar2img: [4, 4], meters -> pixels times depth."""

    name: str
    file: str
    lidar2img: Array


@dataclass(frozen=True)
class SampleRecord:
    """One key frame, in its lidar's frame.

    boxes: [M, 9], center boxes (x, y, z, l, w, h, yaw, vx, vy); an unknown velocity is 0.
    names: [M], nuScenes' detection names.
    """

    token: str
    cameras: tuple[CameraView, ...]
    names: Sequence[str]
    boxes: Array

    def camera(self, name: str) -> CameraView:
        """The view of one camera by its channel; DataError if the sample has none."""
        for view in self.cameras:
            if view.name == name:
                return view
        raise DataError(f"sample {self.token} has no {name}, only {[c.name for c in self.cameras]}")


def pinhole(intrinsic: Array, lidar2cam: Array) -> Array:
    """[4, 4] from a camera's [3, 3] matrix and the rigid [4, 4] transform, in double precision."""
    view = np.eye(4)
    view[:3, :3] = intrinsic
    return np.asarray(view @ lidar2cam)


def rigid(rotation: Array, translation: Array) -> Array:
    """[4, 4]: a rotation followed by a translation."""
    made = np.eye(4)
    made[:3, :3], made[:3, 3] = rotation, translation
    return made
