"""The table of tasks: look-ups, registration, and what a task leaves out."""

from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cupola.errors import BundleError, InputError
from cupola.runtime import tasks
from cupola.runtime.tasks import task as table


class Silent(tasks.Task):
    """A task that overrides only what it must."""

    name = "silent"

    def predictor(self, bundle: Any, model: Any) -> Any:
        raise NotImplementedError


@pytest.fixture(autouse=True)
def own_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "_tasks", dict(table._tasks))


@pytest.mark.parametrize("name", ["detection", "detection3d", "forecast", "language"])
def test_what_a_server_imports_before_it_forks_exists(name: str) -> None:
    for module in tasks.find(name).modules:
        import_module(module)


def test_a_task_is_found_by_its_name_and_by_the_classes_of_its_models() -> None:
    from cupola.models.detr import DETR

    assert tasks.task_of(DETR) is tasks.find("detection")
    assert tasks.task_of(type("Mine", (DETR,), {})) is tasks.find("detection")
    assert tasks.task_of(dict) is None
    with pytest.raises(BundleError, match=r"'detektion' is unknown; did you mean 'detection'"):
        tasks.find("detektion")


def test_a_name_is_taken_once_unless_it_is_replaced() -> None:
    first, second = Silent(), Silent()
    tasks.register(first)
    with pytest.raises(KeyError, match="'silent' is registered already"):
        tasks.register(second)
    tasks.register(second, replace=True)
    assert tasks.find("silent") is second


def test_what_a_task_leaves_out_is_refused_by_name() -> None:
    task, predictor = Silent(), SimpleNamespace(name="toy")
    for refused in (
        lambda: task.read(Path("x")),
        lambda: task.predict(predictor, None, None),
        lambda: task.evaluate(predictor, Path("x"), {}),
        lambda: task.program(predictor, None),
    ):
        with pytest.raises(InputError, match="silent model"):
            refused()
    assert task.bundle_settings({}, {}, {}) == task.bundle_files(Path("x"), {}) == {}
