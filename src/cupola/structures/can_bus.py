"""The 18 numbers that BEVFormer takes of a vehicle's motion, as its info files hold them.

Position (3, meters) and rotation (4, quaternion w, x, y, z) of the vehicle in the world,
acceleration (3), rotation rate (3) and velocity (3) in its own frame, and its heading in radians
and in degrees (0..360). Source: BEVFormer's nuscenes_converter.py and nuscenes_dataset.py.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

CAN_BUS = 18
SIGNALS = slice(7, 16)  # acceleration, rotation rate, velocity
# The vehicle's axes (ahead, left, up) in its lidar's (right, ahead, up).
VEHICLE_IN_LIDAR = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])


def can_bus_of(
    translation: Sequence[float] | Array, quaternion: Sequence[float] | Array, signals: Any = None
) -> Array:
    """[18] of a vehicle at `translation` [3] with the rotation `quaternion` (w, x, y, z).

    `signals` [9] are acceleration, rotation rate and velocity; unknown ones are 0, as in the
    original.
    """
    from scipy.spatial.transform import Rotation  # slow, and every model's package loads this file

    made = np.zeros(CAN_BUS)
    made[:3], made[3:7] = translation, quaternion
    if signals is not None:
        made[SIGNALS] = signals
    ahead = Rotation.from_quat(quaternion, scalar_first=True).apply([1.0, 0.0, 0.0])
    degrees = np.degrees(np.arctan2(ahead[1], ahead[0]))
    degrees += 360.0 if degrees < 0 else 0.0
    made[16], made[17] = np.radians(degrees), degrees
    return made


def can_bus_of_lidar(pose: Array) -> Array:
    """[18] from the pose [4, 4] of a lidar whose y axis points ahead, as nuScenes' does.

    The lidar's place counts as the vehicle's. The quaternion has w >= 0.
    """
    from scipy.spatial.transform import Rotation

    turn = Rotation.from_matrix(pose[:3, :3] @ VEHICLE_IN_LIDAR)
    return can_bus_of(pose[:3, 3], turn.as_quat(canonical=True, scalar_first=True))
