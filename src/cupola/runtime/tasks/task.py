"""Task: everything the commands and the server need to know about one kind of model.

Declaring a task loads no torch: its methods import what they need when they are called. A plug-in
adds a task by calling `register`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from cupola.errors import BundleError, InputError, did_you_mean

if TYPE_CHECKING:
    from PIL.Image import Image

    from cupola.bundles import Bundle
    from cupola.runtime.export import Program
    from cupola.runtime.predictor import Predictor

# What building any model imports, for `Task.modules`.
BUILDING = (
    "cupola.models",
    "cupola.registry.assemble",
    "cupola.registry.construct",
    "cupola.runtime.building",
    "cupola.runtime.optimize.folding",
    "cupola.runtime.optimize.selection",
)


@dataclass(frozen=True)
class Answer:
    """What `cupola predict` shows: `rows` as JSON, `cells` as a table, and perhaps a drawing."""

    rows: Sequence[Mapping[str, Any]]
    columns: Sequence[str]
    cells: Sequence[Sequence[str]] = field(default=())
    draw: "Callable[[], Image] | None" = None


class Task(ABC):
    """One kind of model. Methods that a task does not override raise an error that names it."""

    name: ClassVar[str]
    # Classes whose models do this task, subclasses included, for `cupola bundle` and configs.
    models: ClassVar[tuple[str, ...]] = ()
    # Modules that a server imports once, before it forks the runners.
    modules: ClassVar[tuple[str, ...]] = ()
    # The folder of the server's page: one of cupola/serve/pages by its name, or a path.
    page: ClassVar[str | Path | None] = None
    # The page with the lowest rank among the served models' is the one at /.
    page_rank: ClassVar[int] = 100
    # Whether one model may be split over several processes.
    tensor_parallel: ClassVar[bool] = False

    @abstractmethod
    def predictor(self, bundle: "Bundle", model: Any) -> "Predictor":
        """The predictor of a bundle; `model` is None where its config names none."""

    def build_options(self, bundle: "Bundle") -> dict[str, Any]:
        """What the model's build config lacks, such as the type of its weights."""
        return {}

    def bundle_settings(
        self, cfg: Mapping[str, Any], model: dict[str, Any], options: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What config.json of a bundle holds besides the model, from a training config.

        `model` is its build config, which may be changed. `options` are those of `cupola bundle`.
        """
        return {}

    def bundle_files(self, checkpoint: Path, options: Mapping[str, Any]) -> dict[str, bytes]:
        """Further files of a bundle, by name."""
        return {}

    # ---- the commands

    def example(self, bundle: "Bundle") -> Path | None:
        """The input that `cupola predict` takes when none is named."""
        return None

    def read(self, source: Path) -> Any:
        """An input from a file or folder, before the model is loaded; InputError if it is bad."""
        raise InputError(f"`cupola predict` is not for {self.name} models")

    def calibration_samples(self, predictor: Any, bundle: "Bundle") -> list[Any]:
        """Samples on which engines are compared, and the first of them timed; none: no choice."""
        return []

    def predict(self, predictor: Any, content: Any, threshold: float | None) -> Answer:
        """The answer to what `read` gave."""
        raise InputError(f"`cupola predict` is not for {self.name} models")

    def evaluate(self, predictor: Any, data: Path, options: Mapping[str, Any]) -> dict[str, float]:
        """Metrics on a dataset in a folder. `options` are those of `cupola evaluate`."""
        raise InputError(f"`cupola evaluate --data` is not for {self.name} models")

    def augmented(self, predictor: Any) -> Any:
        """The predictor with the test-time augmentation of its config."""
        raise InputError(f"{predictor.name}: a {self.name} model has no test-time augmentation")

    def program(self, predictor: Any, size: tuple[int, int] | None) -> "Program":
        """What `cupola export` writes; `size` is (height, width) of the example's images."""
        exported = sorted(n for n, task in _tasks.items() if type(task).program is not Task.program)
        raise InputError(
            f"{predictor.name}: a {self.name} model has no export; tasks with one: {exported}"
        )


_tasks: dict[str, Task] = {}


def register(task: Task, *, replace: bool = False) -> None:
    """Adds a task under its name; KeyError if that is taken, unless `replace`."""
    if task.name in _tasks and not replace:
        raise KeyError(f"the task {task.name!r} is registered already; replace=True replaces it")
    _tasks[task.name] = task


def find(name: str) -> Task:
    """The task of that name; BundleError names the nearest on a miss."""
    if name not in _tasks:
        _load_plugins()
    if name not in _tasks:
        raise BundleError(
            f"the task {name!r} is unknown{did_you_mean(name, _tasks)}; known tasks: {names()}, "
            "and those of plug-ins that are installed or named with --plugin"
        )
    return _tasks[name]


def names() -> list[str]:
    """The registered tasks, sorted."""
    return sorted(_tasks)


def task_of(kind: Any) -> Task | None:
    """The task of models of a class: the one that names it, or the nearest class it extends."""
    _load_plugins()
    for base in getattr(kind, "__mro__", ()):
        for task in _tasks.values():
            if base.__name__ in task.models:
                return task
    return None


def model_names() -> list[str]:
    """The classes that some task names, sorted."""
    return sorted(name for task in _tasks.values() for name in task.models)


def _load_plugins() -> None:
    from cupola.registry.plugins import load_entry_points

    load_entry_points()
