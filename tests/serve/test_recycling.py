"""Runners that have answered many requests or use much memory are replaced; nothing is lost."""

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from serve_harness import output, until, write_bundle

from cupola.serve.runners import recycling
from cupola.serve.runners.recycling import Recycler, memory_of
from cupola.serve.runners.slot_table import SlotTable

LIMIT = 1000

# ---- decisions


class Slot:
    """A slot of which only the state counts."""

    def __init__(self, **given: Any) -> None:
        self.title, self.state, self.failure = "runner echo:1#0", "ready", ""
        self.removed, self.replaces, self.pids = False, None, [1]
        self.uptime, self.load_seconds, self.request_limit = 100.0, 1.0, 50.0
        self.recycles = self.respawns = self.memory_at_start = 0
        self.measures = self.provisional = False
        self.description: dict[str, Any] = {}
        self.scoreboard = SimpleNamespace(served=0)
        names = {"name": "echo", "version": "1", "file_name": "echo@1"}
        self.plan = SimpleNamespace(runner_memory_limit=LIMIT, **names)
        settings = SimpleNamespace(min_uptime=1.0, ready_timeout=60.0)
        self.generation = SimpleNamespace(settings=settings)
        self.killed = False
        vars(self).update(given)

    def kill(self) -> None:
        self.killed = True

    def release(self) -> None:
        self.released = True

    discard = release


class Stage:
    """A recycler, the slots it works on, and the log."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *slots: Slot, memory: int = 10) -> None:
        self.table, self.log, self.published = SlotTable(), [], 0
        self.table.slots = list(slots)  # type: ignore[arg-type]
        self.memory = memory
        monkeypatch.setattr(recycling, "memory_of", lambda _: self.memory)
        self.recycler = Recycler(
            self.table, self.add, self.publish, lambda level, text: self.log.append(text)
        )  # type: ignore[arg-type]

    def add(self, old: Any) -> Any:
        slot = Slot(state="starting", replaces=old, uptime=0.5, pids=[2], plan=old.plan)
        slot.measures = old.provisional
        self.table.slots.append(slot)  # type: ignore[arg-type]
        return slot

    def publish(self) -> None:
        self.published += 1


@pytest.mark.parametrize(
    ("given", "memory", "replaced"),
    [
        ({}, 10, False),
        ({"scoreboard": SimpleNamespace(served=50)}, 10, True),
        ({"scoreboard": SimpleNamespace(served=50), "uptime": 3.9}, 10, False),  # loading took 1 s
        ({"scoreboard": SimpleNamespace(served=50), "removed": True}, 10, False),
        ({}, LIMIT + 1, True),
        ({"memory_at_start": LIMIT + 1}, LIMIT + 5, False),  # a new one would not use less
        ({"plan": SimpleNamespace(runner_memory_limit=None)}, 10**12, False),
        ({"provisional": True}, 10, True),
        ({"provisional": True, "uptime": 3.9}, 10, False),
    ],
)
def test_which_runner_is_replaced(monkeypatch, given: Any, memory: int, replaced: bool) -> None:
    stage = Stage(monkeypatch, Slot(**given), memory=memory)
    stage.recycler.step(0.0)
    assert (len(stage.table.slots) == 2) == replaced == bool(stage.log)


def test_a_runner_with_measured_engines_takes_its_time(monkeypatch) -> None:
    old, other = Slot(provisional=True), Slot(provisional=True)
    stage = Stage(monkeypatch, old, other)
    stage.recycler.step(0.0)
    assert "is replaced: its engines are measured" in stage.log[0]
    new: Any = stage.table.slots[2]
    new.uptime = 900.0
    stage.recycler.step(900.0)
    assert not new.removed
    new.state, new.provisional = "ready", True  # as where another process still measures
    stage.recycler.step(901.0)
    stage.recycler.step(902.1)
    assert old.removed and not (new.measures or new.provisional)
    stage.recycler.step(902.2)
    assert stage.table.slots[3].replaces is other


@pytest.mark.parametrize("given", [{"failure": "no memory"}, {"uptime": 2000.0}])
def test_engines_that_cannot_be_measured_are_not_measured_again(monkeypatch, given: Any) -> None:
    old, other = Slot(provisional=True), Slot(provisional=True)
    stage = Stage(monkeypatch, old, other)
    stage.recycler.step(0.0)
    vars(stage.table.slots[2]).update(given)
    for moment in (1.0, 2.0, 100.0):
        stage.recycler.step(moment)
    assert stage.table.slots[2].removed and len(stage.table.slots) == 3
    assert not (old.removed or old.provisional or other.provisional)


def test_a_model_with_a_state_keeps_its_runner(monkeypatch) -> None:
    old = Slot(provisional=True, description={"stateful": True})
    stage = Stage(monkeypatch, old)
    stage.recycler.step(0.0)
    new: Any = stage.table.slots[1]
    new.state = "ready"
    for moment in (1.0, 5.0, 9.0):
        stage.recycler.step(moment)
    assert new.removed and not old.removed and not old.provisional
    assert "its next start uses the engine chosen" in stage.log[-1]


def test_one_at_a_time_and_only_once_the_new_one_is_connected(monkeypatch) -> None:
    old, other = (Slot(scoreboard=SimpleNamespace(served=99), respawns=2) for _ in range(2))
    stage = Stage(monkeypatch, old, other)
    stage.recycler.step(0.0)
    stage.recycler.step(1.0)
    assert len(stage.table.slots) == 3
    new: Any = stage.table.slots[2]
    new.state = "ready"
    stage.recycler.step(2.0)
    stage.recycler.step(2.9)
    assert not old.removed
    stage.recycler.step(3.1)
    assert old.removed and stage.published == 1 and new.replaces is None
    assert (new.recycles, new.respawns, old.respawns) == (1, 2, 0)  # counters never fall
    stage.recycler.step(3.2)
    assert len(stage.table.slots) == 4 and stage.table.slots[3].replaces is other


@pytest.mark.parametrize("given", [{"failure": "no memory"}, {"uptime": 61.0}])
def test_a_replacement_that_does_not_start_is_given_up(monkeypatch, given: Any) -> None:
    old = Slot(scoreboard=SimpleNamespace(served=99))
    stage = Stage(monkeypatch, old)
    stage.recycler.step(0.0)
    new: Any = stage.table.slots[1]
    vars(new).update(given)
    stage.recycler.step(1.0)
    assert new.removed and not old.removed and "is kept" in stage.log[-1]
    new.pids = []
    stage.table.slots.remove(new)
    stage.recycler.step(20.0)
    assert len(stage.table.slots) == 1
    stage.recycler.step(40.0)
    assert len(stage.table.slots) == 2


def test_an_unloaded_model_needs_no_replacement(monkeypatch) -> None:
    stage = Stage(monkeypatch, Slot(scoreboard=SimpleNamespace(served=99)))
    stage.recycler.step(0.0)
    for slot in stage.table.slots:
        slot.removed = True
    stage.recycler.step(1.0)
    stage.recycler.step(2.0)
    assert len(stage.table.slots) == 2 and not stage.published


def test_twice_the_limit_is_the_end(monkeypatch) -> None:
    slot = Slot()
    stage = Stage(monkeypatch, slot, memory=2 * LIMIT)
    stage.recycler.step(0.0)
    assert not slot.killed
    stage.memory += 1
    stage.recycler.step(0.1)
    stage.recycler.step(0.2)  # the process has not ended yet
    assert slot.killed and sum("killed" in line for line in stage.log) == 1


def test_a_limit_below_what_the_model_needs_is_in_the_log(monkeypatch) -> None:
    stage = Stage(monkeypatch, memory=LIMIT + 1)
    stage.recycler.on_ready(Slot())  # type: ignore[arg-type]
    assert "runner_memory_limit = 1000 is too small" in stage.log[0]


# ---- real runners


@pytest.mark.processes
def test_recycling_under_load_loses_nothing(serve, tmp_path: Path) -> None:
    bundle = {"bundle": str(write_bundle(tmp_path, "echo")), "runners": 2}
    server = serve(models=[bundle], workers=2, min_uptime=0.2, runner_max_requests=20)
    until(lambda: len(server.runners()) == 2)
    statuses: list[int] = []
    stopped = threading.Event()

    def ask(path: str = "") -> None:
        while not stopped.is_set():
            if path:
                statuses.append(server.get(path)[0])
                time.sleep(0.002)
            else:
                statuses.append(server.infer(do="sleep", s=0.005)[0])

    askers = [threading.Thread(target=ask) for _ in range(4)]
    askers.append(threading.Thread(target=ask, args=["/v2/health/ready"]))
    for asker in askers:
        asker.start()
    try:
        until(lambda: sum(runner["recycles"] for runner in server.runners()) >= 3, 30)
    finally:
        stopped.set()
        for asker in askers:
            asker.join()
    assert set(statuses) == {200} and len(statuses) > 100
    assert not [line for line in server.log().splitlines() if "signal" in line]
    until(lambda: sorted(runner["index"] for runner in server.runners()) == [0, 1], 20)
    home = server.runtime / str(server.pid) / "g1"
    until(lambda: len(list(home.glob("*.scoreboard"))) == 2)
    assert b"cupola_runner_recycles_total" in server.get("/metrics")[1]


@pytest.mark.processes
def test_a_runner_with_a_measured_engine_takes_over_under_load(serve, tmp_path: Path) -> None:
    measured = str(tmp_path / "measured")
    bundle = write_bundle(tmp_path, "echo", task="choosing", measured=measured)
    server = serve(models=[str(bundle)], workers=2, min_uptime=0.2)
    answers: list[Any] = []
    stopped = threading.Event()

    def ask(x: float) -> None:
        while not stopped.is_set():
            status, answer = server.infer(x=[x], do="sleep", s=0.005)
            answers.append((status, status != 200 or output(answer, "y") == [x], answer))

    askers = [threading.Thread(target=ask, args=[float(number)]) for number in range(4)]
    for asker in askers:
        asker.start()
    try:
        until(lambda: [_engine(each) for each in server.runners()] == ["measured"], 30)
        asked = len(answers)
        until(lambda: len(answers) > asked + 20, 30)
    finally:
        stopped.set()
        for asker in askers:
            asker.join()
    assert {(status, is_right) for status, is_right, _ in answers} == {(200, True)}
    pids = {output(answer, "pid")[0] for *_, answer in answers}
    assert len(pids) == 2 and server.runner_pid() in pids
    assert "is replaced: its engines are measured" in server.log()


def _engine(runner: dict[str, Any]) -> str:
    return str(runner["optimization"]["engine"])


@pytest.mark.processes
def test_memory_that_leaks_is_given_back(serve) -> None:
    server = serve(min_uptime=0.2)
    used = memory_of(server.runner_pid())
    assert used > 1_000_000
    server.configure(runner_memory_limit=used + 100_000_000)
    server.reload()
    first = server.runner_pid()
    assert int(Path(f"/proc/{first}/oom_score_adj").read_text()) >= 300
    for _ in range(5):
        assert server.infer(do="leak", s=30)[0] == 200
    until(lambda: server.runners()[0]["recycles"] and server.runner_pid() != first)
    assert output(server.infer()[1], "pid")[0] != first
    until(lambda: not Path(f"/proc/{first}").exists())
    hard = 2 * (used + 100_000_000)
    status, answer = server.infer(do="hog", s=hard / 1e6 + 50)
    assert status == 500 and "crashed 2 runner processes" in answer["error"]
    assert server.infer()[0] == 200 and server.log().count("bytes: killed") == 2
