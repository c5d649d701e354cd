"""nuScenes' CAN bus expansion beside the tables."""

import json
from pathlib import Path
from typing import Any

import pytest

from cupola.data.can_bus_files import signals_at
from cupola.errors import DataError


def message(time: float, **changes: Any) -> dict[str, Any]:
    first = {"accel": [1, 2, 3], "orientation": [1, 0, 0, 0], "pos": [0, 0, 0]}
    rest = {"rotation_rate": [4, 5, 6], "utime": time, "vel": [time, 8, 9]}
    return {**first, **rest, **changes}


@pytest.mark.parametrize("beside", [False, True])
def test_the_message_after_a_time_tells_the_signals(tmp_path: Path, beside: bool) -> None:
    root = tmp_path / "nuscenes"
    folder = (tmp_path if beside else root) / "can_bus"
    folder.mkdir(parents=True)
    messages = [message(10), message(20), message(30)]
    (folder / "scene-0001_pose.json").write_text(json.dumps(messages))
    assert signals_at(root, "scene-0001", 15).tolist() == [1, 2, 3, 4, 5, 6, 20, 8, 9]
    assert signals_at(root, "scene-0001", 99)[6] == 30
    assert signals_at(root, "scene-0002", 15) is None
    assert signals_at(root, "../can_bus/scene-0001", 15) is None


@pytest.mark.parametrize(
    "content", [[], {"a": 1}, [message(10, vel=[1])], [message(10, accel=None)], [{"utime": 10}]]
)
def test_a_file_of_another_form_is_named(tmp_path: Path, content: Any) -> None:
    (tmp_path / "can_bus").mkdir()
    (tmp_path / "can_bus" / "s_pose.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"s_pose.json: not messages of nuScenes' CAN bus"):
        signals_at(tmp_path, "s", 0)
