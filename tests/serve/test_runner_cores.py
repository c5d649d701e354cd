"""Runners share the cores: their NUMA nodes, and one warning if they have too many threads."""

import os
from types import SimpleNamespace
from typing import Any

import pytest

from cupola.serve.runners import main
from cupola.serve.runners.zygote import Zygote


def slot(number: int, *, threads: int = 2, numa: bool = True, model: str = "detr") -> Any:
    settings = SimpleNamespace(runner_numa=numa)
    plan = SimpleNamespace(tensor_parallel=1, name=model, version="1")
    generation = SimpleNamespace(settings=settings)
    return SimpleNamespace(number=number, threads=threads, generation=generation, plan=plan)


def bound(monkeypatch: pytest.MonkeyPatch, *slots: Any) -> list[Any]:
    """The CPUs that the processes of some slots are bound to, on a machine with two nodes."""
    found: list[Any] = []
    nodes = [{0, 1}, {2, 3}]
    monkeypatch.setattr(
        main, "node_for", lambda number, threads: nodes[number % 2] if threads <= 2 else None
    )
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cpus: found.append(cpus))
    for each in slots:
        main.bind_to_node(each, 0)
    return found


def test_runners_take_the_nodes_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    assert bound(monkeypatch, slot(0), slot(1), slot(2)) == [{0, 1}, {2, 3}, {0, 1}]
    assert bound(monkeypatch, slot(0, numa=False), slot(1, threads=3)) == []


def test_a_cpuset_that_changed_does_not_end_the_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(pid: int, cpus: set[int]) -> None:
        raise OSError(22, "Invalid argument")

    bound(monkeypatch)
    monkeypatch.setattr(os, "sched_setaffinity", gone)
    main.bind_to_node(slot(0), 0)


def zygote_of(slots: list[Any], threads: int) -> tuple[Zygote, list[tuple[str, str]]]:
    """A zygote on four cores, and what it logs."""
    logged: list[tuple[str, str]] = []
    zygote = Zygote.__new__(Zygote)
    zygote.generation = SimpleNamespace(log=lambda *line: logged.append(line))  # type: ignore[assignment]
    zygote.cores, zygote.threads, zygote.has_warned = 4, threads, False
    zygote.table = SimpleNamespace(slots=slots)  # type: ignore[assignment]
    return zygote, logged


def test_runners_of_many_models_with_one_thread_are_no_problem() -> None:
    """The default with more models than cores: no setting would make it better."""
    slots = [slot(number, model=f"model {number}") for number in range(6)]
    zygote, logged = zygote_of(slots, threads=1)
    zygote._warn_if_oversubscribed()
    assert logged == []
    zygote.table.slots += [slot(number, model="model 5") for number in range(4)]
    zygote._warn_if_oversubscribed()
    (level, text), *more = logged
    assert (level, more) == ("warning", [])
    assert "5 runner processes of 1 compute thread share 4 cores" in text


def test_too_many_threads_are_named_once() -> None:
    zygote, logged = zygote_of([slot(0), slot(1)], threads=2)
    zygote._warn_if_oversubscribed()
    assert logged == []
    zygote.table.slots.append(slot(2))  # a model that was loaded later
    zygote._warn_if_oversubscribed()
    zygote._warn_if_oversubscribed()
    assert [level for level, _ in logged] == ["warning"]
    assert "3 runner processes of 2 compute threads share 4 cores" in logged[0][1]
