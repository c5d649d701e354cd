"""What a detection benchmark needs to know of one moment of a drive, in the global frame."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class GlobalBox:
    """An annotated object. center: [3], meters; size: (l, w, h); yaw: radians.

    velocity: (vx, vy) in m/s, NaN where unknown. attribute: "" where unknown. points: of lidar and
    radar in the box, -1 where not counted.
    """

    name: str
    center: Triple
    size: Triple
    yaw: float
    velocity: tuple[float, float]
    attribute: str = ""
    points: int = -1


@dataclass(frozen=True)
class Cuboid:
    """A region of space. pose: [4, 4], its own frame -> the global one; size: (l, w, h)."""

    pose: Array
    size: Triple

    def contains(self, point: Triple) -> bool:
        """Whether a point is inside or on the surface."""
        own = self.pose[:3, :3].T @ (np.asarray(point) - self.pose[:3, 3])
        return bool((np.abs(own) <= np.asarray(self.size) / 2).all())


@dataclass(frozen=True)
class SceneTruth:
    """One sample: its token, the pose of its lidar, the place of the ego, and the objects.

    lidar2global: [4, 4]. ego: [3], meters in the global frame. racks: where bicycles and
    motorcycles are not evaluated.
    """

    token: str
    lidar2global: Array
    ego: Triple
    boxes: tuple[GlobalBox, ...]
    racks: tuple[Cuboid, ...] = ()
