"""nuScenes' CAN bus expansion: what the vehicle measured of its own motion.

`can_bus/scene-0001_pose.json` and so on, in the root of the tables or beside it, as BEVFormer's
converter takes them.
"""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cupola.files import content_of, read_json

SIGNALS = ("accel", "rotation_rate", "vel")  # in the order of a can_bus


def signals_at(root: Path, scene: str, microseconds: float) -> NDArray[np.float64] | None:
    """[9], acceleration, rotation rate and velocity at a time; None for a scene without a file.

    As BEVFormer's converter takes them: of the first message after that time. DataError for a file
    that is not one.
    """
    name = f"{scene}_pose.json"
    if Path(name).name != name:
        return None
    folders = (root / "can_bus", root.parent / "can_bus")
    path = next((folder / name for folder in folders if (folder / name).is_file()), None)
    if path is None:
        return None
    with content_of(path, "messages of nuScenes' CAN bus"):
        return _numbers(_after(_messages(path), microseconds))


@lru_cache(maxsize=2)
def _messages(path: Path) -> list[Mapping[str, Any]]:
    messages: list[Mapping[str, Any]] = read_json(path)
    return messages


def _after(messages: list[Mapping[str, Any]], microseconds: float) -> Mapping[str, Any]:
    """The first message after a time, else the last one."""
    return next((each for each in messages if each["utime"] > microseconds), messages[-1])


def _numbers(message: Mapping[str, Any]) -> NDArray[np.float64]:
    found = np.concatenate([np.asarray(message[name], float).reshape(3) for name in SIGNALS])
    if not np.isfinite(found).all():
        raise ValueError("a number is not finite")
    return found
