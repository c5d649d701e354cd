"""BuildRecord: what one build made, from which config, and in which order."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cupola.config.dicts import leaves
from cupola.errors import BuildError, did_you_mean


@dataclass(frozen=True)
class BuiltPart:
    """One object that a build made: a module, or a helper such as a matcher."""

    path: str  # as in the state dict; "" for the model itself
    order: int  # in which its construction began, from 0
    cls: str  # full dotted name of its class
    name: str | None  # the registered name; None if a constructor made it directly
    registry: str | None
    source: str  # file:line of its class
    made_by: str | None  # the class whose method made it; None for the model
    made_at: str | None  # file:line of the statement that made it
    config: str | None  # dotted path of its dict in the config, if it has one
    seconds: float  # of construction, including its children's
    module: bool = True  # False for helpers, which hold no parameters

    @property
    def class_name(self) -> str:
        """The class without its module."""
        return self.cls.rpartition(".")[2]


@dataclass(frozen=True)
class Difference:
    """One difference between two builds; a side is None where it has no value."""

    path: str
    what: str  # "part", "class", "order" or "config KEY"
    left: Any
    right: Any

    def __str__(self) -> str:
        return f"{self.path or 'model'}: {self.what}: {self.left!r} -> {self.right!r}"


@dataclass(frozen=True)
class BuildRecord:
    """All parts of one build in order, and the config it was built from."""

    parts: tuple[BuiltPart, ...]
    config: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)  # path in the config -> file:line

    def part(self, path: str) -> BuiltPart:
        """The part at a path; BuildError with the nearest paths on a miss."""
        for part in self.parts:
            if part.path == path:
                return part
        hint = did_you_mean(path, [part.path for part in self.parts])
        raise BuildError(f"the build made no part {path!r}{hint}")

    def config_of(self, part: BuiltPart) -> Any:
        """The dict in the config that made a part, or None."""
        if part.config is None:
            return None
        value: Any = self.config
        for key in filter(None, part.config.split(".")):
            value = value[int(key) if isinstance(value, list | tuple) else key]
        return value

    def origins_of(self, part: BuiltPart) -> dict[str, str]:
        """Where each key of a part's dict was written: key path in the dict -> file:line."""
        if part.config is None:
            return {}
        prefix = f"{part.config}." if part.config else ""
        return {k[len(prefix) :]: v for k, v in self.origins.items() if k.startswith(prefix)}

    def to_dict(self) -> dict[str, Any]:
        """The build record as plain values, for JSON."""
        parts = [asdict(part) for part in self.parts]
        return {"parts": parts, "config": self.config, "origins": self.origins}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "BuildRecord":
        """The inverse of `to_dict`; BuildError when something is missing."""
        try:
            parts = tuple(BuiltPart(**part) for part in data["parts"])
            return cls(parts, dict(data["config"]), dict(data["origins"]))
        except (KeyError, TypeError, ValueError) as error:
            raise BuildError(f"not a build record: {error}") from None

    def save(self, path: str | Path) -> None:
        """Writes the build record as JSON."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=1, default=str) + "\n", "utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "BuildRecord":
        """Reads what `save` wrote."""
        try:
            return cls.from_dict(json.loads(Path(path).read_text("utf-8")))
        except (OSError, json.JSONDecodeError) as error:
            raise BuildError(f"{path}: cannot be read as a build record: {error}") from None

    def compare(self, other: "BuildRecord") -> list[Difference]:
        """The differences in parts, classes, order of construction and config values."""
        left = {part.path: part for part in self.parts}
        right = {part.path: part for part in other.parts}
        found = [
            Difference(path, "part", _class(left.get(path)), _class(right.get(path)))
            for path in {**left, **right}
            if (path in left) != (path in right)
        ]
        both = [path for path in left if path in right]
        for path in both:
            if not _same_class(left[path].cls, right[path].cls):
                found.append(Difference(path, "class", left[path].cls, right[path].cls))
        found += _order_differences(both, [path for path in right if path in left])
        return found + _config_differences(self.config, other.config)


def _same_class(left: str, right: str) -> bool:
    """Whether two records name one class; Cupola's own may move to another module."""
    own = left.startswith("cupola.") and right.startswith("cupola.")
    return left == right or (own and left.rpartition(".")[2] == right.rpartition(".")[2])


def _class(part: BuiltPart | None) -> str | None:
    return part.class_name if part else None


def _order_differences(left: list[str], right: list[str]) -> list[Difference]:
    return [
        Difference(path, "order", left.index(path), right.index(path))
        for path, twin in zip(left, right, strict=True)
        if path != twin
    ]


def _config_differences(left: Any, right: Any) -> list[Difference]:
    old, new = dict(leaves(left)), dict(leaves(right))
    return [
        Difference(path, "config", old.get(path), new.get(path))
        for path in {**old, **new}
        if (path in old) != (path in new) or old[path] != new[path]
    ]
