"""Loads settings from a TOML or YAML file, the environment and flags; later sources win.

An error names the file, the line and the setting, and suggests the nearest name.
"""

import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from cupola.errors import ConfigError, did_you_mean
from cupola.serve.settings.access import ApiKey, Limits
from cupola.serve.settings.model import ModelSettings
from cupola.serve.settings.settings import Settings

PREFIX = "CUPOLA_"
Location = tuple[str | int, ...]


def load_settings(
    file: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """The settings from `file`, CUPOLA_NAME variables and `flags`; ConfigError if invalid."""
    text = _read(file) if file else ""
    from_file = _parse(file, text) if file else {}
    from_environment = _from_environment(os.environ if environment is None else environment)
    values = {**from_file, **from_environment, **dict(flags or {})}
    try:
        return Settings(**values)
    except ValidationError as error:
        lines = [_explain(problem, file, text, from_file) for problem in error.errors()]
        raise ConfigError("\n".join(lines)) from None


def model_settings(values: Mapping[str, Any]) -> ModelSettings:
    """The settings of one model, from a request; ConfigError if invalid."""
    try:
        return ModelSettings(**values)
    except ValidationError as error:
        lines = [_describe(problem, ModelSettings.model_fields) for problem in error.errors()]
        raise ConfigError("\n".join(lines)) from None


def dump_settings(settings: Settings) -> str:
    """All settings, including defaults, as a YAML file that loads back equal."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: not UTF-8 text: {error.reason}") from None


def _parse(file: Path, text: str) -> dict[str, Any]:
    try:
        data = tomllib.loads(text) if file.suffix == ".toml" else yaml.safe_load(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: {error}") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{file}:{line}: {error.problem}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{file}: {error}") from None
    if data is not None and not isinstance(data, dict):
        raise ConfigError(f"{file}:1: expected settings as `name: value`, got {data!r}")
    return data or {}


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """CUPOLA_WORKERS=4, CUPOLA_LISTEN=a,b; values starting with [ or { are parsed as JSON."""
    found: dict[str, Any] = {}
    for name in Settings.model_fields:
        value = environment.get(PREFIX + name.upper())
        if value is not None:
            found[name] = _from_json(name, value) if value[:1] in "[{" and value else value
    return found


def _from_json(name: str, value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError as error:
        raise ConfigError(f"{PREFIX}{name.upper()}: not valid JSON: {error}") from None


def _explain(problem: Any, file: Path | None, text: str, from_file: dict[str, Any]) -> str:
    location: Location = problem["loc"]
    in_file = file is not None and bool(location) and location[0] in from_file
    where = f"{file}:{_line_of(text, location, file)}: " if in_file and file else ""
    known = _known_at(location)
    return where + _describe(problem, known)


def _known_at(location: Location) -> Iterable[str]:
    """The names that are valid at a place."""
    kind: Any = Settings
    for part in location[:-1]:
        if part in _NESTED:
            kind = _NESTED[str(part)]
    return list(kind.model_fields)


_NESTED: dict[str, Any] = {
    "models": ModelSettings, "api_keys": ApiKey, "limits": Limits, "client_limits": Limits
}  # fmt: skip


def _describe(problem: Any, known: Iterable[str]) -> str:
    """One validation error, with the nearest of the `known` names if the name is unknown."""
    location: Location = problem["loc"]
    name = ".".join(str(part) for part in location)
    if problem["type"] == "extra_forbidden":
        return f"unknown setting {name!r}{did_you_mean(str(location[-1]), known)}"
    if location[0] == "api_keys":  # it may be a key itself
        return f"{name}: {problem['msg']}"
    return f"{name}: {problem['msg']}, got {problem['input']!r}"


def _line_of(text: str, location: Location, file: Path) -> int:
    if file.suffix == ".toml":
        return _toml_line(text, location)
    node = yaml.compose(text)
    line = 1
    for part in location:
        found = _yaml_child(node, part)
        if found is None:
            break
        node, line = found
    return line


def _yaml_child(node: Any, part: str | int) -> tuple[Any, int] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(part):
                return value, key.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part], node.value[part].start_mark.line + 1
    return None


def _toml_line(text: str, location: Location) -> int:
    """The line of the deepest part of `location` found in the file; tomllib reports none."""
    lines, start, best = text.splitlines(), 0, 1
    for position, part in enumerate(location):
        if isinstance(part, int):
            continue
        following = location[position + 1] if position + 1 < len(location) else 0
        nth = following if isinstance(following, int) else 0
        header = re.compile(rf"\s*\[+\s*{re.escape(part)}\s*\]+|\s*{re.escape(part)}\s*=")
        hits = [n for n, line in enumerate(lines) if n >= start and header.match(line)]
        if not hits:
            break
        start = hits[min(nth, len(hits) - 1)]
        best = start + 1
    return best
