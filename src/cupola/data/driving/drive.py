"""A drive through a generated scene: its moments, the ego's positions, and its records' tokens."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from cupola.data.driving.agents import Array
from cupola.data.driving.rig import Camera
from cupola.data.driving.scene import Scene

PERIOD = 0.5  # seconds between samples


def token(*parts: object) -> str:
    """A nuScenes token, 32 hex digits, derived from what it identifies."""
    return hashlib.md5("/".join(map(str, parts)).encode(), usedforsecurity=False).hexdigest()


@dataclass(frozen=True)
class Drive:
    """A drive through one scene: `frames` moments, PERIOD apart.

    start: [3], meters, the ego's first position in the global frame. turn: its heading.
    time: the first timestamp, microseconds.
    """

    name: str
    scene: Scene
    rig: Sequence[Camera]
    frames: int
    start: Array
    turn: Rotation
    time: int

    def key(self, *parts: object) -> str:
        """The token of a record of this drive."""
        return token(self.name, *parts)

    def keys(self, kind: str, *parts: object) -> list[str]:
        """The tokens of a record's versions at all moments."""
        return [self.key(kind, i, *parts) for i in range(self.frames)]

    def stamp(self, i: int) -> int:
        """The timestamp of moment number `i`, microseconds."""
        return self.time + round(i * PERIOD * 1e6)

    def ego(self, i: int) -> Array:
        """The ego's position at moment number `i`, [3], global frame."""
        ahead = self.turn.apply([self.scene.ego_speed * i * PERIOD, 0.0, 0.0])
        return np.asarray(self.start + ahead)
