"""The parts of a pinhole camera's projection."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def split_projections(lidar2img: Array) -> tuple[Array, Array]:
    """Projections [N, 4, 4] -> intrinsics and extrinsics (lidar to camera) [N, 4, 4].

    The intrinsics are upper triangular with (0, 0, 1) as the last row, as a pinhole camera's.
    """
    matrices = np.asarray(lidar2img, np.float64)
    intrinsics = np.tile(np.eye(4), (len(matrices), 1, 1))
    for camera, matrix in zip(intrinsics, matrices, strict=True):
        u, v, z = matrix[:3, :3] / np.linalg.norm(matrix[2, :3])
        camera[1, 2] = v @ z
        rest = v - camera[1, 2] * z
        camera[1, 1] = np.linalg.norm(rest)
        y = rest / camera[1, 1]
        camera[0, 1], camera[0, 2] = u @ y, u @ z
        camera[0, 0] = np.linalg.norm(u - camera[0, 1] * y - camera[0, 2] * z)
    return intrinsics, np.linalg.inv(intrinsics) @ matrices
