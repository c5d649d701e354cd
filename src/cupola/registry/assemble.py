"""Turns the events of a Recorder into a BuildRecord and attaches it to the built object."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from cupola.registry.build_record import BuildRecord, BuiltPart
from cupola.registry.config_paths import join
from cupola.registry.recorder import Record, Recorder
from cupola.registry.source import source_location


def attach_build_record(recorder: Recorder, cfg: Mapping[Any, Any]) -> None:
    """Sets `build_record` on the root of the build if it accepts attributes."""
    root = recorder.records[0].object
    with contextlib.suppress(AttributeError, TypeError):
        root.build_record = assemble(recorder, cfg)


def assemble(recorder: Recorder, cfg: Mapping[Any, Any]) -> BuildRecord:
    """The parts of the finished object, in the order in which their construction began."""
    root = recorder.records[0]
    starts = _ConstructionStarts(recorder)
    parts: dict[int, tuple[int, int, BuiltPart]] = {}
    for path, module in _modules(root.object):
        parts.setdefault(id(module), _part(path, module, recorder, starts))
    for record in recorder.records:
        if id(record.object) not in parts and record.object is not None:
            path = _helper_path(record, parts)
            parts[id(record.object)] = _part(path, record.object, recorder, starts)
    ordered = [part for *_, part in sorted(parts.values(), key=lambda entry: entry[:2])]
    numbered = tuple(replace(part, order=index) for index, part in enumerate(ordered))
    return BuildRecord(numbered, _plain(cfg), dict(_origins(cfg)))


class _ConstructionStarts:
    """The event at which the construction of each object began, and how long it took.

    A build call records its own start. A module that a constructor made directly is known only
    from its assignment, so its start is that of the first object inside it.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.records = {id(record.object): record for record in reversed(recorder.records)}
        self.known: dict[int, int] = {}

    def of(self, thing: Any) -> int:
        if id(thing) not in self.known:
            self.known[id(thing)] = self._first_event(thing)
        return self.known[id(thing)]

    def _first_event(self, thing: Any) -> int:
        events = [self.of(child) for _, child in _children(thing)]
        if id(thing) in self.records:
            events.append(self.records[id(thing)].sequence)
        elif id(thing) in self.recorder.registrations:
            events.append(self.recorder.registrations[id(thing)].sequence)
        return min(events, default=0)

    def seconds(self, thing: Any, start: int) -> float:
        record = self.records.get(id(thing))
        if record is not None:
            return record.ended - record.started
        registration = self.recorder.registrations.get(id(thing))
        if registration is None:
            return 0.0
        times = self.recorder.times
        return times[registration.sequence] - times[max(start - 1, 0)]


def _part(
    path: str, thing: Any, recorder: Recorder, starts: _ConstructionStarts
) -> tuple[int, int, BuiltPart]:
    record = starts.records.get(id(thing))
    registration = recorder.registrations.get(id(thing))
    made = registration if record is None or record.parent is None else record
    sequence = starts.of(thing)
    kind: Any = type(thing)
    part = BuiltPart(
        path=path,
        order=0,
        cls=f"{kind.__module__}.{kind.__qualname__}",
        name=record.name if record else None,
        registry=record.registry if record else None,
        source=source_location(kind),
        made_by=made.made_by if made else None,
        made_at=_short(made.made_at) if made and made.made_at else None,
        config=record.node.path if record and record.node else None,
        seconds=starts.seconds(thing, sequence),
        module=_is_module(thing),
    )
    return sequence, path.count(".") + bool(path), part


def _is_module(thing: Any) -> bool:
    return callable(getattr(thing, "named_children", None))


def _children(thing: Any) -> Iterator[tuple[str, Any]]:
    if _is_module(thing):
        yield from thing.named_children()


def _modules(root: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    yield path, root
    for name, child in _children(root):
        yield from _modules(child, join(path, name))


def _helper_path(record: Record, parts: Mapping[int, tuple[int, int, BuiltPart]]) -> str:
    """The path of a helper: the attribute of its parent that holds it."""
    parent = record.parent
    if parent is None:
        return ""
    owner = parts.get(id(parent.object))
    prefix = owner[2].path if owner else ""
    name = _attribute(parent.object, record.object) or f"({type(record.object).__name__})"
    return join(prefix, name)


def _attribute(owner: Any, wanted: Any) -> str | None:
    for name, value in getattr(owner, "__dict__", {}).items():
        if value is wanted:
            return str(name)
        inner: Any = ()
        if isinstance(value, list | tuple):
            inner = enumerate(value)
        elif isinstance(value, dict):
            inner = value.items()
        for key, item in inner:
            if item is wanted:
                return f"{name}.{key}"
    return None


@lru_cache(maxsize=4096)
def _short(location: str) -> str:
    """file:line with the file relative to the folder that holds its outermost package."""
    file, _, line = location.rpartition(":")
    path = Path(file)
    parts = [path.name]
    for folder in path.parents:
        if not (folder / "__init__.py").exists():
            break
        parts.append(folder.name)
    return f"{'/'.join(reversed(parts))}:{line}"


def _origins(cfg: Any, path: str = "") -> Iterator[tuple[str, str]]:
    items: Any = ()
    if isinstance(cfg, Mapping):
        items = cfg.items()
        for key, origin in getattr(cfg, "origins", {}).items():
            yield join(path, key), str(origin)
    elif isinstance(cfg, list | tuple):
        items = enumerate(cfg)
    for key, value in items:
        yield from _origins(value, join(path, key))


def _plain(value: Any) -> Any:
    """The config as JSON values, with classes as their names."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return getattr(value, "__name__", None) or repr(value)
