"""A street whose agents meet the ego in the course of a drive, without collisions."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cupola.data.driving.agents import CLASS_NAMES, Agent, Array, draw_parts, draw_size
from cupola.data.driving.scene import (
    GROUND,
    Scene,
    SceneStyle,
    make_street,
    motion,
    place,
    turned,
)

EGO_SIZE = (4.6, 1.9)  # meters, length and width
EGO_SPEEDS = (0.0, 10.0)  # m/s
TURN_RATE = 0.03  # radians per second, standard deviation
GAP = 0.3  # meters between agents
CHECK_PERIOD = 0.25  # seconds between checks for collisions
ATTEMPTS = 20


def make_traffic(rng: np.random.Generator, style: SceneStyle, seconds: float) -> Scene:
    """A random scene at the start of a drive of `seconds`.

    Each agent is within `style.reach` of the ego at some moment of the drive, and keeps its
    velocity. `style.clearance` is not used: agents may pass as close as GAP.
    """
    street = make_street(rng)
    empty = Scene((), street, rng.uniform(*EGO_SPEEDS), rng.normal(0, TURN_RATE))
    times = np.arange(0, seconds + CHECK_PERIOD, CHECK_PERIOD)
    taken = [_ego_discs(empty, times)]
    agents: list[Agent] = []
    for _ in range(int(rng.integers(style.fewest, style.most + 1))):
        label = int(rng.choice(len(CLASS_NAMES), p=style.shares))
        for _attempt in range(ATTEMPTS):
            agent = _passing(rng, empty, label, style, seconds)
            discs = _discs(agent, times)
            if all(_apart(discs, other) for other in taken):
                agents.append(agent)
                taken.append(discs)
                break
    return replace(empty, agents=tuple(agents))


def _passing(
    rng: np.random.Generator, empty: Scene, label: int, style: SceneStyle, seconds: float
) -> Agent:
    """An agent at the start of the drive, placed near the ego at a random moment of it."""
    name = CLASS_NAMES[label]
    moment = rng.uniform(0, seconds)
    turn, ego = empty.ego_motion(moment)
    street = empty.after(moment).street
    spot = place(rng, street, name, style)
    yaw, velocity = motion(rng, street, name, spot)
    there = Agent(
        label,
        np.array([spot[0], spot[1], GROUND]),
        draw_size(rng, name),
        yaw,
        velocity,
        draw_parts(rng, name),
    )
    agent = turned(there, turn)
    start = ego - agent.velocity * moment
    return replace(agent, position=agent.position + np.append(start, 0.0))


# Three discs cover a footprint: [T, 3, 2] centers at T times, and their radius.
Discs = tuple[Array, float]


def _discs(agent: Agent, times: Array) -> Discs:
    places = agent.position[:2] + times[:, None] * agent.velocity
    yaws = np.full(len(times), agent.yaw)
    return _cover(places, yaws, (agent.size[0], agent.size[1]))


def _ego_discs(scene: Scene, times: Array) -> Discs:
    motions = [scene.ego_motion(time) for time in times]
    places = np.stack([ego for _, ego in motions])
    yaws = np.array([turn for turn, _ in motions]) + math.pi / 2
    return _cover(places, yaws, EGO_SIZE)


def _cover(places: Array, yaws: Array, size: Sequence[float]) -> Discs:
    length, width = size
    along = np.array([-1.0, 0.0, 1.0]) * length / 3
    heading = np.stack((np.cos(yaws), np.sin(yaws)), -1)  # [T, 2]
    centers = places[:, None] + along[:, None] * heading[:, None]
    return centers, math.hypot(length / 6, width / 2)


def _apart(first: Discs, second: Discs) -> bool:
    gaps = np.linalg.norm(first[0][:, :, None] - second[0][:, None], axis=-1)
    return bool(gaps.min() > first[1] + second[1] + GAP)
