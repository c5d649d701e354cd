"""A street around the ego vehicle: its agents, the direction of the road, and the sun."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cupola.data.driving.agents import CLASS_NAMES, Agent, Array, draw_parts, draw_size
from cupola.data.driving.rig import LIDAR_HEIGHT

GROUND = -LIDAR_HEIGHT


@dataclass(frozen=True)
class SceneStyle:
    """How many agents a scene has, of which classes, and where."""

    reach: float = 32.0  # meters: agents are placed within this distance
    fewest: int = 5
    most: int = 12
    shares: tuple[float, float, float, float] = (0.5, 0.14, 0.2, 0.16)  # of the four classes
    clearance: float = 3.2  # meters around the ego that stay free


@dataclass(frozen=True)
class Street:
    """road_yaw: radians, the road's direction. half_width: meters. sun: [3], towards the sun.

    along, across: meters, the ego's place on the road, to its end and to its right.
    """

    road_yaw: float
    half_width: float
    sun: Array
    ambient: float
    asphalt: float
    verge: Array
    sky: Array
    texture: int
    along: float = 0.0
    across: float = 0.0


@dataclass(frozen=True)
class Scene:
    """Agents in the lidar's frame of the ego at one moment; the ego drives along +y.

    ego_speed: m/s. turn_rate: radians per second, counter-clockwise.
    """

    agents: tuple[Agent, ...]
    street: Street
    ego_speed: float
    turn_rate: float = 0.0

    def ego_motion(self, seconds: float) -> tuple[float, Array]:
        """Where the ego is `seconds` later: its heading and its place [2] in the present frame."""
        turn = self.turn_rate * seconds
        chord = self.ego_speed * seconds * np.sinc(turn / 2 / math.pi)
        return turn, chord * np.array([-math.sin(turn / 2), math.cos(turn / 2)])

    def ego_pose(self, seconds: float) -> Array:
        """The lidar's frame `seconds` later -> the present one, [4, 4]."""
        turn, place = self.ego_motion(seconds)
        pose = np.eye(4)
        pose[:2, :2] = rotation(turn)
        pose[:2, 3] = place
        return pose

    def after(self, seconds: float) -> "Scene":
        """The scene `seconds` later, in the ego's frame at that time."""
        turn, ego = self.ego_motion(seconds)
        moved = tuple(
            turned(
                replace(a, position=a.position + np.append(a.velocity * seconds - ego, 0)), -turn
            )
            for a in self.agents
        )
        return replace(self, agents=moved, street=self._street_from(ego, turn))

    def _street_from(self, ego: Array, turn: float) -> Street:
        """The street as seen from the ego at a place and heading in the present frame."""
        street = self.street
        forward = np.array([math.cos(street.road_yaw), math.sin(street.road_yaw)])
        return replace(
            street,
            road_yaw=street.road_yaw - turn,
            sun=np.append(rotation(-turn) @ street.sun[:2], street.sun[2]),
            along=street.along + float(ego @ forward),
            across=street.across + float(ego[0] * forward[1] - ego[1] * forward[0]),
        )


def rotation(angle: float) -> Array:
    """[2, 2]: turns columns counter-clockwise."""
    cosine, sine = math.cos(angle), math.sin(angle)
    return np.array([[cosine, -sine], [sine, cosine]])


def turned(agent: Agent, angle: float) -> Agent:
    """The agent turned around the origin."""
    turn = rotation(angle)
    return replace(
        agent,
        position=np.append(turn @ agent.position[:2], agent.position[2]),
        yaw=agent.yaw + angle,
        velocity=turn @ agent.velocity,
    )


def make_street(rng: np.random.Generator) -> Street:
    height, azimuth = rng.uniform(0.5, 1.3), rng.uniform(0, 2 * math.pi)
    sun = np.array(
        [
            math.cos(azimuth) * math.cos(height),
            math.sin(azimuth) * math.cos(height),
            math.sin(height),
        ]
    )
    return Street(
        road_yaw=math.pi / 2 + rng.normal(0, 0.06),
        half_width=rng.uniform(6.5, 9.5),
        sun=sun,
        ambient=rng.uniform(0.4, 0.6),
        asphalt=rng.uniform(0.28, 0.45),
        verge=np.array([0.3, 0.4, 0.2]) * rng.uniform(0.7, 1.2) + rng.uniform(-0.05, 0.05, size=3),
        sky=np.array([0.55, 0.68, 0.85]) * rng.uniform(0.8, 1.1),
        texture=int(rng.integers(1 << 30)),
    )


def place(rng: np.random.Generator, street: Street, name: str, style: SceneStyle) -> Array:
    """A position: vehicles on or beside the road, pedestrians and cones mostly at its edge."""
    along = rng.uniform(-style.reach, style.reach)
    if name in ("car", "truck"):
        lane = rng.choice(
            [-0.75, -0.25, 0.25, 0.75, 1.4, -1.4], p=[0.2, 0.22, 0.22, 0.2, 0.08, 0.08]
        )
        across = lane * street.half_width + rng.normal(0, 0.5)
    else:
        side = rng.choice([-1.0, 1.0])
        across = side * rng.uniform(0.3, 1.5) * street.half_width
    forward = np.array([math.cos(street.road_yaw), math.sin(street.road_yaw)])
    right = np.array([forward[1], -forward[0]])
    return forward * along + right * (across - street.across)


def _heading(rng: np.random.Generator, street: Street, name: str, spot: Array) -> float:
    if name in ("car", "truck") and rng.random() < 0.85:
        across = spot[0] * math.sin(street.road_yaw) - spot[1] * math.cos(street.road_yaw)
        on_right = across + street.across > 0
        return street.road_yaw + (0 if on_right else math.pi) + float(rng.normal(0, 0.06))
    return float(rng.uniform(-math.pi, math.pi))


def motion(rng: np.random.Generator, street: Street, name: str, spot: Array) -> tuple[float, Array]:
    """The heading and the velocity [2] of an agent of a class at a place [2]."""
    yaw = _heading(rng, street, name, spot)
    return yaw, _speed(rng, name) * np.array([math.cos(yaw), math.sin(yaw)])


def _speed(rng: np.random.Generator, name: str) -> float:
    if name == "traffic_cone" or rng.random() < 0.35:
        return 0.0
    return float(rng.uniform(0.6, 1.8) if name == "pedestrian" else rng.uniform(2.0, 9.0))


def _free(spot: Array, radius: float, agents: Sequence[Agent], style: SceneStyle) -> bool:
    distance = float(np.hypot(*spot))
    if not style.clearance + radius < distance < style.reach:
        return False
    return all(np.hypot(*(a.position[:2] - spot)) > a.radius + radius + 0.3 for a in agents)


def make_scene(rng: np.random.Generator, style: SceneStyle | None = None) -> Scene:
    """A random scene, determined by the state of the generator and the style."""
    style = style or SceneStyle()
    street = make_street(rng)
    agents: list[Agent] = []
    for _ in range(int(rng.integers(style.fewest, style.most + 1))):
        label = int(rng.choice(len(CLASS_NAMES), p=style.shares))
        name = CLASS_NAMES[label]
        size, parts = draw_size(rng, name), draw_parts(rng, name)
        radius = float(np.hypot(size[0], size[1]) / 2)
        for _attempt in range(10):
            spot = place(rng, street, name, style)
            if _free(spot, radius, agents, style):
                position = np.array([spot[0], spot[1], GROUND])
                yaw, velocity = motion(rng, street, name, spot)
                agents.append(Agent(label, position, size, yaw, velocity, parts))
                break
    return Scene(tuple(agents), street, float(rng.uniform(0, 8)))
