"""Recorder: watches one build from the outermost `build` to its end."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from types import FrameType
from typing import TYPE_CHECKING, Any

from cupola.registry.config_paths import Slice, Slices

if TYPE_CHECKING:
    from cupola.registry.registry import Registry

_active: ContextVar["Recorder | None"] = ContextVar("cupola_recorder", default=None)

# Frames of these files only carry an assignment out; who made it stands further out.
_MACHINERY = ("/cupola/registry/", "/torch/nn/modules/module.py", "/torch/nn/modules/container.py")


@dataclass(eq=False)
class Registration:
    """A module that was assigned to a parent, and by whom."""

    child: Any  # kept alive, so that its id stays its own while the build lasts
    sequence: int
    made_by: str | None
    made_at: str


@dataclass(eq=False)
class Record:
    """One `build` call inside the recorded build."""

    recorder: "Recorder"
    registry: "Registry"
    slice: Slice | None
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
        """The constructor's own copy of its arguments; what `cfg` has wins over `defaults`."""
        copy = self.recorder.slices.copy
        here = self.slice.path if self.slice else None
        made = {key: copy(value, None) for key, value in defaults.items() if key not in cfg}
        for key, value in cfg.items():
            below = None if here is None else f"{here}.{key}".lstrip(".")
            made[key] = copy(value, below)
        return made

    def made(self, made: Any, maker: Any, kind: Any) -> Any:
        """Notes what came out; returns it."""
        self.object = made
        self.name = kind if isinstance(kind, str) else getattr(maker, "__name__", str(maker))
        self.ended = self.recorder.now()
        return made


@dataclass(eq=False)
class Recorder:
    """Everything that happened so far in one build, in order."""

    label: str  # what the root is called in messages: "model", "dataset"
    slices: Slices = field(default_factory=Slices)
    records: list[Record] = field(default_factory=list)
    registrations: dict[int, Registration] = field(default_factory=dict)
    times: list[float] = field(default_factory=list)  # one per event; its index is the sequence
    stack: list[Record] = field(default_factory=list)

    def now(self) -> float:
        """Notes an event; returns its time in seconds."""
        self.times.append(time.perf_counter())
        return self.times[-1]

    def open(self, registry: "Registry", cfg: Any) -> Record:
        """A `build` call begins."""
        parent = self.stack[-1] if self.stack else None
        found = self.slices.find(cfg, parent.slice) if parent else Slice("", cfg)
        made_by, made_at = _maker(sys._getframe()) if parent else (None, None)
        record = Record(
            recorder=self,
            registry=registry,
            slice=found,
            where=self._where(found, parent, cfg),
            parent=parent,
            sequence=len(self.times),
            started=self.now(),
            made_by=made_by,
            made_at=made_at,
        )
        self.records.append(record)
        return record

    def registered(self, parent: Any, name: str, child: Any) -> None:
        """A module was assigned to its parent (torch's global registration hook)."""
        if child is not None and id(child) not in self.registrations:
            made_by, made_at = _maker(sys._getframe())
            sequence = len(self.times)
            self.now()
            self.registrations[id(child)] = Registration(child, sequence, made_by, made_at)

    def _where(self, found: Slice | None, parent: Record | None, cfg: Any) -> str:
        if found is not None:
            return f"{self.label}.{found.path}" if found.path else self.label
        kind = cfg.get("type") if isinstance(cfg, Mapping) else None
        return f"{parent.where if parent else self.label} > {kind}"


@contextmanager
def recording(registry: "Registry", cfg: Any) -> Iterator[Record]:
    """The record of one `build` call; the outermost one leaves a BuildRecord on what it built."""
    recorder = _active.get()
    if recorder is not None:
        yield from _nested(recorder, registry, cfg)
        return
    recorder = Recorder(registry.name.removesuffix("s"))
    _check_mapping(cfg, recorder.label)
    token = _active.set(recorder)
    try:
        with _watch_modules():
            record = recorder.open(registry, cfg)
            recorder.stack.append(record)
            yield record
    finally:
        _active.reset(token)
    from cupola.registry.assemble import attach_build_record

    attach_build_record(recorder, cfg)


def _nested(recorder: Recorder, registry: "Registry", cfg: Any) -> Iterator[Record]:
    _check_mapping(cfg, recorder.stack[-1].where)
    record = recorder.open(registry, cfg)
    recorder.stack.append(record)
    try:
        yield record
    finally:
        recorder.stack.pop()


def _check_mapping(cfg: Any, where: str) -> None:
    from cupola.registry.construct import LocatedError

    if not isinstance(cfg, Mapping):
        raise LocatedError(f"{where}: expected a dict to build from, got {cfg!r:.60}")


@contextmanager
def _watch_modules() -> Iterator[None]:
    """Reports every assignment of a module to the recorder of this thread, where torch is in."""
    from torch.nn.modules.module import register_module_module_registration_hook

    handle = register_module_module_registration_hook(_on_registration)
    try:
        yield
    finally:
        handle.remove()


def _on_registration(parent: Any, name: str, child: Any) -> None:
    recorder = _active.get()
    if recorder is not None:
        recorder.registered(parent, name, child)


def _maker(frame: FrameType | None) -> tuple[str | None, str]:
    """The class whose method made something, and file:line of the statement.

    The statement may stand in a helper function; then the class is the one that called it.
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
