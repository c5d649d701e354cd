"""Renders a scene for one camera: a depth buffer, a textured ground and shaded boxes.

Letters: (H, W) image, (h, w) the part of it that a box can cover.
"""

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from cupola.data.driving.agents import Agent, Array, BodyPart
from cupola.data.driving.rig import Camera
from cupola.data.driving.scene import GROUND, Scene, Street

Pixels = NDArray[np.uint8]
NEAR = 0.2  # meters: nothing closer is drawn
HORIZON = 120.0  # meters at which the ground has faded into the sky
SHADOW = 0.45  # how much light is left in a shadow
HEADLIGHT = np.array([0.98, 0.95, 0.8])
SIGNS = np.array(list(product((-1.0, 1.0), repeat=3)))
TAIL_LIGHT = np.array([0.85, 0.08, 0.06])


@dataclass(frozen=True)
class View:
    """pixels: [H, W, 3] uint8 RGB. owner: [H, W], index of the agent seen there, or -1."""

    pixels: Pixels
    owner: NDArray[np.int16]

    def visible(self, agents: int) -> NDArray[np.int64]:
        """The number of pixels of each of `agents` agents, [agents]."""
        return np.bincount(self.owner[self.owner >= 0], minlength=agents)


def _noise(x: Array, y: Array, seed: int) -> Array:
    """A value in 0..1 for every unit cell of the plane."""
    mixed = (np.floor(x).astype(np.int64) * 73856093) ^ (np.floor(y).astype(np.int64) * 19349663)
    mixed = (mixed ^ seed) * 2654435761 & 0xFFFFFFFF
    return np.asarray((mixed >> 8 & 0xFFFF) / 65535.0)


def _ground_color(points: Array, street: Street) -> Array:
    """Color [..., 3] of ground points [..., 2]: asphalt with lane marks between green verges."""
    cosine, sine = math.cos(street.road_yaw), math.sin(street.road_yaw)
    along = points[..., 0] * cosine + points[..., 1] * sine + street.along
    across = points[..., 0] * sine - points[..., 1] * cosine + street.across
    grain = 0.7 * _noise(along / 0.8, across / 0.8, street.texture)
    grain += 0.6 * _noise(along / 3.1, across / 3.1, street.texture + 1)
    road = np.abs(across) < street.half_width
    shade = (0.8 + 0.35 * grain)[..., None]
    color = np.where(road[..., None], street.asphalt, street.verge) * shade
    edge = np.abs(np.abs(across) - street.half_width) < 0.12
    middle = (np.abs(across) < 0.1) & (along % 6.0 < 3.0)
    lanes = (np.abs(np.abs(across) - street.half_width / 2) < 0.08) & (along % 5.0 < 2.0)
    color[edge | middle | lanes] = 0.85
    return color


def _background(camera: Camera, rays: Array, street: Street) -> tuple[Array, Array]:
    """Sky and ground: colors [H, W, 3], depths [H, W] (infinite in the sky)."""
    depth = np.full(rays.shape[:2], np.inf)
    down = rays[..., 2] < -1e-4
    depth[down] = (GROUND - camera.position[2]) / rays[down][:, 2]
    rise = np.clip(rays[..., 2] / np.linalg.norm(rays, axis=-1), 0, 1)[..., None]
    color = street.sky * (1.15 - 0.5 * rise)
    near = depth < HORIZON
    reached = camera.position[:2] + rays[near][:, :2] * depth[near][:, None]
    light = street.ambient + (1 - street.ambient) * street.sun[2]
    haze = np.clip(depth[near] / HORIZON, 0, 1)[:, None]
    color[near] = _ground_color(reached, street) * light * (1 - haze) + street.sky * haze
    return color, depth


def _turn(yaw: float) -> Array:
    """[3, 3]: multiplies rows in the lidar's frame into rows along a box's own axes."""
    cosine, sine = math.cos(yaw), math.sin(yaw)
    return np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])


def _window(camera: Camera, corners: Array, size: tuple[int, int]) -> tuple[slice, slice] | None:
    """The rows and columns that the hull of corners [8, 3] can cover, or None."""
    pixels, depth = camera.project(corners)
    if (depth < NEAR).all():
        return None
    height, width = size
    low, high = pixels.min(0), pixels.max(0)
    if (
        depth < NEAR
    ).any():  # it extends behind the camera, where projected corners are meaningless
        low, high = np.zeros(2), np.array([width, height])
    left, top = np.clip(np.floor(low), 0, [width, height]).astype(int)
    right, bottom = np.clip(np.ceil(high), 0, [width, height]).astype(int)
    if left >= right or top >= bottom:
        return None
    return slice(top, bottom), slice(left, right)


def _hull(center: Array, half: Array, turn: Array) -> Array:
    return center + (SIGNS * half) @ turn.T


def _cast_shadow(
    camera: Camera, rays: Array, color: Array, depth: Array, agent: Agent, street: Street
) -> None:
    """Darkens the ground beside an agent, away from the sun."""
    length = agent.size[2] / street.sun[2] * 0.5
    shift = -street.sun[:2] * length
    turn = _turn(agent.yaw)
    local_shift = (np.append(shift, 0.0) @ turn)[:2]
    half = np.append(agent.size[:2] / 2 + np.abs(local_shift) / 2, 0.01)
    center = agent.position + np.append(shift / 2, 0.01)
    window = _window(camera, _hull(center, half, turn), (rays.shape[0], rays.shape[1]))
    if window is None:
        return
    ground = depth[window]
    with np.errstate(invalid="ignore"):
        points = camera.position + rays[window] * ground[..., None]
        local = (points - center) @ turn
        inside = (np.abs(local[..., :2]) < half[:2]).all(-1) & (ground < HORIZON)
    color[window][inside] *= SHADOW


def _paint(
    part: BodyPart, local: Array, axis: NDArray[np.int64], ahead: NDArray[np.bool_]
) -> Array:
    """Color [n, 3] of hits: `local` [n, 3] in -1..1, the face's axis, and whether it is +axis."""
    color = np.tile(np.asarray(part.color), (len(local), 1))
    if part.lights:
        ends = (axis == 0) & (np.abs(local[:, 1]) > 0.5) & (np.abs(local[:, 2] - 0.1) < 0.4)
        color[ends & ahead] = HEADLIGHT
        color[ends & ~ahead] = TAIL_LIGHT
        color[(axis == 2) & ahead] *= 1.05
    if part.feet:
        color[(local[:, 2] < 2 * part.feet - 1) & (axis != 2)] = 0.06
    return color


def _draw_part(
    camera: Camera,
    rays: Array,
    buffers: tuple[Array, Array, NDArray[np.int16]],
    agent: Agent,
    index: int,
    part: BodyPart,
    street: Street,
) -> None:
    """Intersects the rays of a window with one box (slab method) and keeps the nearest hits."""
    color, depth, owner = buffers
    low, high = np.asarray(part.low) * agent.size, np.asarray(part.high) * agent.size
    half, turn = (high - low) / 2, _turn(agent.yaw)
    center = agent.position + turn @ ((low + high) / 2)
    window = _window(camera, _hull(center, half, turn), (rays.shape[0], rays.shape[1]))
    if window is None:
        return
    origin = (camera.position - center) @ turn
    direction = rays[window] @ turn  # [h, w, 3]
    direction = np.where(np.abs(direction) < 1e-9, 1e-9, direction)
    first, second = (-half - origin) / direction, (half - origin) / direction
    entry = np.minimum(first, second)
    near, far = entry.max(-1), np.maximum(first, second).min(-1)
    hit = (near < far) & (near > NEAR) & (near < depth[window])
    if not hit.any():
        return
    axis = entry[hit].argmax(-1)
    toward = direction[hit][np.arange(len(axis)), axis]
    ahead = np.asarray(toward < 0)
    local = (origin + direction[hit] * near[hit][:, None]) / half
    normals = np.where(ahead, 1.0, -1.0)[:, None] * turn.T[axis]  # [n, 3]
    light = street.ambient + (1 - street.ambient) * np.clip(normals @ street.sun, 0, 1)
    color[window][hit] = _paint(part, local, axis, ahead) * light[:, None]
    depth[window][hit] = near[hit]
    owner[window][hit] = index


def _may_see(camera: Camera, agent: Agent, street: Street, width: int) -> bool:
    """Whether the sphere around an agent and its shadow can overlap the image horizontally."""
    reach = agent.radius + agent.size[2] * (1 + 1 / street.sun[2])
    x, _, depth = (agent.position - camera.position) @ camera.rotation
    slope = width / 2 / camera.intrinsic[0, 0]
    return bool(depth > -reach and abs(x) - depth * slope < reach * math.hypot(1, slope))


def render(scene: Scene, camera: Camera, size: tuple[int, int]) -> View:
    """The scene as one camera of (height, width) pixels sees it."""
    rays = camera.rays(size)
    color, depth = _background(camera, rays, scene.street)
    owner = np.full(size, -1, np.int16)
    near = [i for i, a in enumerate(scene.agents) if _may_see(camera, a, scene.street, size[1])]
    for index in near:
        _cast_shadow(camera, rays, color, depth, scene.agents[index], scene.street)
    for index in near:
        agent = scene.agents[index]
        for part in agent.parts:
            _draw_part(camera, rays, (color, depth, owner), agent, index, part, scene.street)
    return View((np.clip(color, 0, 1) * 255).astype(np.uint8), owner)
