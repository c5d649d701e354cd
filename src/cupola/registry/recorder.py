"""Recorder: watches one build from the outermost `build` call to its end."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from types import FrameType
from typing import Any

from cupola.errors import BuildError
from cupola.nn import Module
from cupola.registry.budget import current_budget
from cupola.registry.config_paths import ConfigNode, ConfigPaths, join

_active: ContextVar["Recorder | None"] = ContextVar("cupola_recorder", default=None)

# Frames of these files only pass an assignment on; the code that made it is further out.
_MACHINERY = ("/cupola/registry/", "/torch/nn/modules/module.py", "/torch/nn/modules/container.py")


class LocatedBuildError(BuildError):
    """A BuildError whose message already begins with the path in the config."""


@dataclass(eq=False)
class Registration:
    """A module that was assigned to a parent, and the code that did it."""

    child: Any  # kept alive, so that its id is not reused while the build lasts
    sequence: int
    made_by: str | None
    made_at: str


@dataclass(eq=False)
class Record:
    """One `build` call inside the recorded build."""

    recorder: "Recorder"
    registry: str
    node: ConfigNode | None
    where: str
    parent: "Record | None"
    sequence: int
    started: float
    made_by: str | None
    made_at: str | None
    ended: float = 0.0
    object: Any = None
    name: str | None = None

    def arguments(self, cfg: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
        """The constructor's own copy of its arguments; `cfg` takes precedence over `defaults`."""
        copy = self.recorder.paths.copy
        made = {key: copy(value, None) for key, value in defaults.items() if key not in cfg}
        for key, value in cfg.items():
            made[key] = copy(value, join(self.node.path, key) if self.node else None)
        return made

    def made(self, made: Any, maker: Any, kind: Any) -> Any:
        """Records the result and returns it."""
        self.object = made
        self.name = kind if isinstance(kind, str) else getattr(maker, "__name__", str(maker))
        self.ended = self.recorder.now()
        return made


@dataclass(eq=False)
class Recorder:
    """Everything that has happened so far in one build, in order."""

    label: str  # the name of the root in messages: "model", "dataset"
    paths: ConfigPaths = field(default_factory=ConfigPaths)
    records: list[Record] = field(default_factory=list)
    registrations: dict[int, Registration] = field(default_factory=dict)
    times: list[float] = field(default_factory=list)  # one per event; its index is the sequence
    stack: list[Record] = field(default_factory=list)

    def now(self) -> float:
        """Records an event; returns its time in seconds."""
        self.times.append(time.perf_counter())
        return self.times[-1]

    @contextmanager
    def build_call(self, registry: str, cfg: Any) -> Iterator[Record]:
        """Records one `build` call; LocatedBuildError if `cfg` is not a mapping."""
        parent = self.stack[-1] if self.stack else None
        if not isinstance(cfg, Mapping):
            where = parent.where if parent else self.label
            raise LocatedBuildError(f"{where}: expected a dict to build from, got {cfg!r:.60}")
        record = self._open(registry, cfg, parent)
        self.records.append(record)
        self.stack.append(record)
        try:
            yield record
        finally:
            self.stack.pop()

    def _open(self, registry: str, cfg: Mapping[Any, Any], parent: Record | None) -> Record:
        node = self.paths.find(cfg, parent.node) if parent else ConfigNode("", cfg)
        made_by, made_at = _maker(sys._getframe()) if parent else (None, None)
        return Record(
            recorder=self,
            registry=registry,
            node=node,
            where=self._where(node, parent, cfg),
            parent=parent,
            sequence=len(self.times),
            started=self.now(),
            made_by=made_by,
            made_at=made_at,
        )

    def registered(self, parent: Any, name: str, child: Any) -> None:
        """Records that a module was assigned to its parent."""
        if child is not None and id(child) not in self.registrations:
            made_by, made_at = _maker(sys._getframe())
            sequence = len(self.times)
            self.now()
            self.registrations[id(child)] = Registration(child, sequence, made_by, made_at)

    def _where(self, node: ConfigNode | None, parent: Record | None, cfg: Any) -> str:
        if node is not None:
            return join(self.label, node.path) if node.path else self.label
        return f"{parent.where if parent else self.label} > {cfg.get('type')}"


@contextmanager
def recording(registry: str, cfg: Any) -> Iterator[Record]:
    """The record of one `build` call, inside the build in progress if there is one."""
    recorder = _active.get()
    if recorder is not None:
        with recorder.build_call(registry, cfg) as record:
            yield record
        return
    recorder = Recorder(registry.removesuffix("s"))
    token = _active.set(recorder)
    try:
        with _watch_modules(), recorder.build_call(registry, cfg) as record:
            yield record
    finally:
        _active.reset(token)


@contextmanager
def _watch_modules() -> Iterator[None]:
    """Reports every assignment of a module to the recorder of this context."""
    from torch.nn.modules.module import register_module_module_registration_hook

    handle = register_module_module_registration_hook(_on_registration)
    try:
        yield
    finally:
        handle.remove()


def _on_registration(parent: Any, name: str, child: Any) -> None:
    budget = current_budget()
    if budget is not None and child is not None and not isinstance(child, Module):
        budget.charge_module()  # a module of torch; ours are charged when they are constructed
    recorder = _active.get()
    if recorder is not None:
        recorder.registered(parent, name, child)


def _maker(frame: FrameType | None) -> tuple[str | None, str]:
    """The class whose method made something, and file:line of the statement.

    If the statement is in a helper function, the class is the one that called the helper.
    """
    while frame is not None and _is_machinery(frame):
        frame = frame.f_back
    made_at = f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else ""
    while frame is not None:
        owner = frame.f_code.co_qualname.split(".<locals>")[0].rpartition(".")[0]
        if owner and not _is_machinery(frame):
            return f"{frame.f_globals.get('__name__', '')}.{owner}", made_at
        frame = frame.f_back
    return None, made_at


def _is_machinery(frame: FrameType) -> bool:
    return _is_machinery_file(frame.f_code.co_filename)


@lru_cache(maxsize=4096)
def _is_machinery_file(name: str) -> bool:
    return (
        any(part in name for part in _MACHINERY)
        or name.endswith("contextlib.py")
        or ("/cupola/nn/" in name and "/cupola/nn/layers/" not in name)
        or "container" in name.rpartition("/")[2]
    )
