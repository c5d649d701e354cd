"""The agents of a scene: cars, trucks, pedestrians and cones, made of shaded boxes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

CLASS_NAMES = ("car", "truck", "pedestrian", "traffic_cone")
# Mean (l, w, h) in meters. Sizes vary, so that apparent size alone does not give the distance.
MEAN_SIZES = {
    "car": (4.5, 1.9, 1.6),
    "truck": (7.5, 2.5, 3.2),
    "pedestrian": (0.7, 0.7, 1.75),
    "traffic_cone": (0.45, 0.45, 0.9),
}
SIZE_SPREAD = 0.12
GLASS = (0.12, 0.15, 0.2)
SKIN = (0.75, 0.58, 0.48)
ORANGE = (0.95, 0.4, 0.1)


@dataclass(frozen=True)
class BodyPart:
    """A box of an agent, in fractions of its size: from `low` to `high`, each (l, w, h).

    The agent spans -0.5..0.5 along l and w and 0..1 in height. `lights` paints the front and rear
    faces as a vehicle's; `feet` is the fraction of the height that is dark (wheels, trousers).
    """

    low: tuple[float, float, float]
    high: tuple[float, float, float]
    color: tuple[float, float, float]
    lights: bool = False
    feet: float = 0.0


@dataclass(frozen=True)
class Agent:
    """One object in the ego's lidar frame.

    position: [3], meters, z at the bottom. size: (l, w, h). yaw: radians, counter-clockwise from
    the x axis. velocity: [2], m/s. parts: the boxes that are drawn.
    """

    label: int
    position: Array
    size: Array
    yaw: float
    velocity: Array
    parts: tuple[BodyPart, ...]

    @property
    def box(self) -> Array:
        """(x, y, z of the bottom, l, w, h, yaw, vx, vy), [9]."""
        return np.concatenate((self.position, self.size, [self.yaw], self.velocity))

    @property
    def radius(self) -> float:
        """Half of the footprint's diagonal, meters."""
        return float(np.hypot(self.size[0], self.size[1]) / 2)


def draw_size(rng: np.random.Generator, name: str) -> Array:
    """A random size for a class: one factor for all sides, and a smaller one for each side."""
    common = rng.normal(1.0, SIZE_SPREAD)
    each = rng.normal(1.0, SIZE_SPREAD / 3, size=3)
    return np.asarray(MEAN_SIZES[name]) * np.clip(common * each, 0.65, 1.4)


def draw_parts(rng: np.random.Generator, name: str) -> tuple[BodyPart, ...]:
    """The boxes of one agent of a class, in random colors."""
    paint = rng.uniform(0.15, 0.95, size=3)
    color = (float(paint[0]), float(paint[1]), float(paint[2]))
    if name == "car":
        return (
            BodyPart((-0.5, -0.5, 0.0), (0.5, 0.5, 0.6), color, lights=True, feet=0.35),
            BodyPart((-0.4, -0.44, 0.6), (0.2, 0.44, 0.96), GLASS),
            BodyPart((-0.36, -0.42, 0.96), (0.16, 0.42, 1.0), color),
        )
    if name == "truck":
        return (
            BodyPart((0.27, -0.48, 0.0), (0.5, 0.48, 0.72), color, lights=True, feet=0.2),
            BodyPart((0.3, -0.44, 0.42), (0.505, 0.44, 0.66), GLASS),
            BodyPart(
                (-0.5, -0.5, 0.12), (0.24, 0.5, 1.0), (0.82, 0.82, 0.8), lights=True, feet=0.1
            ),
        )
    if name == "pedestrian":
        bag = (1 - color[0], 1 - color[1], 1 - color[2])  # a bag on the back shows the heading
        return (
            BodyPart((-0.2, -0.32, 0.0), (0.2, 0.32, 0.48), (0.15, 0.17, 0.28)),
            BodyPart((-0.28, -0.5, 0.46), (0.28, 0.5, 0.84), color),
            BodyPart((-0.5, -0.34, 0.5), (-0.28, 0.34, 0.8), bag),
            BodyPart((-0.18, -0.18, 0.84), (0.18, 0.18, 1.0), SKIN),
        )
    return (
        BodyPart((-0.5, -0.5, 0.0), (0.5, 0.5, 0.08), (0.2, 0.2, 0.2)),
        BodyPart((-0.36, -0.36, 0.08), (0.36, 0.36, 0.4), ORANGE),
        BodyPart((-0.24, -0.24, 0.4), (0.24, 0.24, 0.65), (0.95, 0.95, 0.95)),
        BodyPart((-0.14, -0.14, 0.65), (0.14, 0.14, 1.0), ORANGE),
    )
