"""The six cameras of the ego vehicle.

Frames: the lidar's has x to the right, y forward, z up, and its origin LIDAR_HEIGHT above the
ground (nuScenes' convention). A camera's has x to the right of the image, y down, z into the scene.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# The order matters: DETR3D has weights per camera.
CAMERA_NAMES = (
    "CAM_FRONT",
    "CAM_FRONT_RIGHT",
    "CAM_FRONT_LEFT",
    "CAM_BACK",
    "CAM_BACK_LEFT",
    "CAM_BACK_RIGHT",
)
YAW_DEGREES = (0.0, -55.0, 55.0, 180.0, 110.0, -110.0)  # counter-clockwise from forward
FIELD_DEGREES = (70.0, 70.0, 70.0, 110.0, 70.0, 70.0)  # horizontal, as on nuScenes' cars
LIDAR_HEIGHT = 1.84
CAMERA_HEIGHT = 1.55
CAMERA_REACH = 0.9  # meters from the lidar's axis to a camera
PITCH_DEGREES = 4.0  # downwards


@dataclass(frozen=True)
class Camera:
    """A pinhole camera in the lidar's frame.

    rotation: [3, 3], columns are the camera's axes in the lidar's frame. position: [3], meters.
    intrinsic: [3, 3], pixels; pixel (0, 0) has its center at (0.5, 0.5).
    """

    name: str
    rotation: Array
    position: Array
    intrinsic: Array

    @cached_property
    def lidar2img(self) -> Array:
        """[4, 4]: meters in the lidar's frame -> pixels times depth."""
        lidar2cam = np.eye(4)
        lidar2cam[:3, :3] = self.rotation.T
        lidar2cam[:3, 3] = -self.rotation.T @ self.position
        view = np.eye(4)
        view[:3, :3] = self.intrinsic
        return view @ lidar2cam

    def rays(self, size: tuple[int, int]) -> Array:
        """Directions through every pixel of an image (height, width), depth 1: [H, W, 3]."""
        height, width = size
        u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
        pixels = np.stack((u, v, np.ones_like(u)), axis=-1)
        return pixels @ np.linalg.inv(self.intrinsic).T @ self.rotation.T

    def project(self, points: Array) -> tuple[Array, Array]:
        """Points [..., 3] -> pixels [..., 2] and depth [...]; pixels are meaningless behind it."""
        flat = points @ self.lidar2img[:3, :3].T + self.lidar2img[:3, 3]
        depth = flat[..., 2]
        return flat[..., :2] / np.maximum(depth, 1e-5)[..., None], depth


def _rotation(yaw: float, pitch: float) -> Array:
    """Axes of a camera that looks along `yaw` (0 = forward) and `pitch` downwards, radians."""
    forward = np.array(
        [-math.sin(yaw) * math.cos(pitch), math.cos(yaw) * math.cos(pitch), -math.sin(pitch)]
    )
    right = np.array([math.cos(yaw), math.sin(yaw), 0.0])
    return np.stack((right, np.cross(forward, right), forward), axis=1)


def camera_rig(size: tuple[int, int], rng: np.random.Generator | None = None) -> list[Camera]:
    """The six cameras for images of (height, width); `rng` varies their mounting slightly."""
    height, width = size
    cameras = []
    for name, yaw, field in zip(CAMERA_NAMES, YAW_DEGREES, FIELD_DEGREES, strict=True):
        turn, tilt = (0.0, 0.0) if rng is None else rng.uniform(-1.5, 1.5, size=2)
        focal = width / 2 / math.tan(math.radians(field) / 2)
        intrinsic = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])
        angle = math.radians(yaw + turn)
        position = np.array(
            [
                -math.sin(angle) * CAMERA_REACH,
                math.cos(angle) * CAMERA_REACH,
                CAMERA_HEIGHT - LIDAR_HEIGHT,
            ]
        )
        rotation = _rotation(angle, math.radians(PITCH_DEGREES + tilt))
        cameras.append(Camera(name, rotation, position, intrinsic))
    return cameras
