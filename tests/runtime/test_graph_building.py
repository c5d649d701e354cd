"""The child process that builds a graph, and what becomes of one that takes long."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cupola.runtime.optimize import building
from cupola.runtime.optimize.network import EngineUnavailableError

# Writes its graph, or fails, when it may; ends when its standard input does, as the real one.
CHILD = """
import pathlib, sys, threading, os
def end():
    os.read(0, 1)
    os._exit(1)
threading.Thread(target=end, daemon=True).start()
with open(sys.argv[1]) as gate:
    text = gate.read()
if text == "fail":
    raise SystemExit("ValueError: no such operator")
pathlib.Path(sys.argv[2]).write_text(text)
"""


class Gate:
    """A named pipe for which a child waits."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "gate"
        os.mkfifo(self.path)
        self.children: list[Any] = []

    def start(self, arguments: Any) -> Any:
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(self.path), arguments[2]],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,
        )
        self.children.append(child)
        return child

    def open(self, text: str) -> None:
        self.path.write_text(text)


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(tmp_path)
    monkeypatch.setattr(building, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(building, "_start", gate.start)
    monkeypatch.setattr(building, "trace", lambda *arguments: arguments[3].touch())
    yield gate
    for child in gate.children:
        child.kill()


def build(out: Path, seconds: float, nice: int = 0) -> None:
    nothing: Any = None
    building.build("onnx", nothing, nothing, (), out, seconds, nice)


def files(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir() if each.name != "gate")


def test_a_graph_is_built_in_time(tmp_path: Path, gate: Gate) -> None:
    opener = threading.Thread(target=gate.open, args=("graph",))
    opener.start()
    build(tmp_path / "a.onnx", 600.0)
    opener.join()
    assert files(tmp_path) == ["a.onnx"]


def test_a_slow_child_is_stopped(tmp_path: Path, gate: Gate) -> None:
    with pytest.raises(building.UnfinishedError, match=r"not built within 0 s; `cupola explain"):
        build(tmp_path / "a.onnx", 0.1)
    assert gate.children[0].returncode == -9
    assert files(tmp_path) == []


def test_a_child_gives_way_to_others(tmp_path: Path, gate: Gate) -> None:
    found: list[int] = []
    give_way = building._give_way

    def note(child: Any, nice: int) -> None:
        give_way(child, nice)
        found.append(os.getpriority(os.PRIO_PROCESS, child.pid))

    opener = threading.Thread(target=gate.open, args=("graph",))
    opener.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "_give_way", note)
        build(tmp_path / "a.onnx", 600.0, nice=10)
    opener.join()
    assert found == [10]


def test_a_failure_is_remembered(tmp_path: Path) -> None:
    error = EngineUnavailableError("cannot be built: ValueError: no such operator")
    building.remember_failure(tmp_path / "a.onnx", error)
    assert building.earlier_failure(tmp_path / "a.onnx") == str(error)
    assert building.earlier_failure(tmp_path / "b.onnx") is None


def test_a_failure_in_time(tmp_path: Path, gate: Gate) -> None:
    opener = threading.Thread(target=gate.open, args=("fail",))
    opener.start()
    with pytest.raises(EngineUnavailableError, match="cannot be built: ValueError: no such"):
        build(tmp_path / "a.onnx", 600.0)
    opener.join()
    assert files(tmp_path) == []


def test_the_failure_of_a_compiler_is_not_remembered(tmp_path: Path) -> None:
    building.remember_failure(tmp_path / "a.so", EngineUnavailableError("cannot be built: g++"))
    assert list(tmp_path.iterdir()) == []


def test_files_of_killed_processes_are_removed(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for owner in (gone.pid, os.getpid()):
        (tmp_path / f".0a1b.{owner}.pt2").touch()
    (tmp_path / ".auto.json.1").touch()
    building.remove_abandoned(tmp_path)
    assert files(tmp_path) == [f".0a1b.{os.getpid()}.pt2", ".auto.json.1"]
