"""JSON, YAML and TOML configs: reading under the same limits as Python files, and writing."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

from cupola.config.budget import Budget
from cupola.config.dump import to_python
from cupola.errors import ConfigError

# The suffixes of config files; a path that ends in one is never taken for a bundle.
CONFIG_SUFFIXES = (".py", ".json", ".yaml", ".yml", ".toml")
MAX_DEPTH = 80  # of nested values; the parsers of YAML and TOML slow down with depth
MOST_VALUES = Budget.values * 3 // 4  # of a YAML text: walks through them cost as much once more
_KEY = r"""(?:[A-Za-z0-9_-]++|"[^"\n]*+"|'[^'\n]*+')"""
_LONG_KEY = re.compile(rf"(?<![A-Za-z0-9_-])(?:{_KEY}[ \t]*+\.[ \t]*+){{{MAX_DEPTH}}}")
_YAML = "tag:yaml.org,2002:"
_YAML_TAGS = ["bool", "float", "int", "map", "null", "seq", "str"]
_YAML_NUMBER = re.compile(r"[-+]?[0-9.]")
_YAML_DATE = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:$|[Tt \t])")
# Control characters, halves of surrogate pairs, and what changes the direction of text.
_UNPRINTABLE = re.compile(
    "[\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)


def parse_data(path: Path, text: str, budget: Budget) -> dict[str, Any]:
    """The mapping in a JSON, YAML or TOML text; ConfigError with the line if it is not one."""
    try:
        if path.suffix == ".json":
            data = json.loads(text)
        elif path.suffix == ".toml":
            data = _load_toml(path, text)
        else:
            data = _load_yaml(path, text)
        budget.weigh(data)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from None
    except RecursionError:
        raise ConfigError(f"{path}:1: values are nested too deep") from None
    except ConfigError as error:
        text = str(error)
        raise ConfigError(text if text.startswith(str(path)) else f"{path}:1: {text}") from None
    except ValueError as error:  # Python converts no integer of more digits
        is_long = "integer string conversion" in str(error)
        text = "an integer of more than 4300 digits" if is_long else str(error)[:200]
        raise ConfigError(f"{path}:1: {text}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}:1: a config is a mapping, and this is a {type(data).__name__}")
    return data


def write(data: dict[str, Any], suffix: str) -> str:
    """The text of a config in the format of a file suffix; ConfigError for any other."""
    if suffix == ".py":
        return to_python(data)
    if suffix not in (".json", ".yaml", ".yml"):
        raise ConfigError(
            f"a config is written as .py, .json or .yaml, not {suffix or 'nothing'!r}"
        )
    try:
        text = json.dumps(data, indent=2, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"the config cannot be written as {suffix[1:]}: {error}") from None
    if suffix == ".json":
        return _UNPRINTABLE.sub(lambda match: json.dumps(match[0])[1:-1], text) + "\n"
    import yaml

    listed = json.loads(text)  # tuples as lists, and no shared parts
    return yaml.safe_dump(listed, sort_keys=False, allow_unicode=not _UNPRINTABLE.search(text))


def _load_toml(path: Path, text: str) -> Any:
    if found := _LONG_KEY.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise ConfigError(f"{path}:{line}: values are nested more than {MAX_DEPTH} deep")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"at line (\d+)", str(error))
        line = int(found[1]) if found else text.count("\n") + 1
        raise ConfigError(f"{path}:{line}: not valid TOML: {error}") from None


def read_yaml(path: Path) -> Any:
    """What a YAML file holds, within the limits of configs; ConfigError with the line."""
    from cupola.files import read_text  # not at the top: it loads numpy

    return _load_yaml(path, read_text(path, error=ConfigError))


def _load_yaml(path: Path, text: str) -> Any:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    depth, sizes = 0, AliasSizes()
    try:
        for event in yaml.parse(text, Loader=loader):
            problem = sizes.add(event)
            if sizes.total > MOST_VALUES:
                raise ConfigError("the config makes too many or too large values")
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            problem = problem or _yaml_problem(event, depth)
            if problem:
                raise ConfigError(f"{path}:{_line(event.start_mark)}: {problem}")
        return yaml.load(text, Loader=loader)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}:1: not valid YAML: a value does not fit its tag") from None
    except yaml.YAMLError as error:
        line = _line(getattr(error, "problem_mark", None))
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise ConfigError(f"{path}:{line}: not valid YAML: {problem}") from None


class AliasSizes:
    """Counts the values of a YAML text with every alias written out, before they are made.

    A merge key (`<<`) copies what it names, so it counts like any other alias.
    """

    def __init__(self) -> None:
        self.total = 0
        self._anchors: dict[str, int] = {}
        self._open: list[tuple[str | None, int]] = []

    def add(self, event: Any) -> str | None:
        """Counts an event of the parser; what is wrong with an alias inside of what it names."""
        kind, anchor = type(event).__name__, getattr(event, "anchor", None)
        if kind == "AliasEvent":
            if any(anchor == name for name, _ in self._open):
                return f"the alias *{anchor} is inside of what it names"
            self.total += self._anchors.get(str(anchor), 0)
        elif kind in ("MappingStartEvent", "SequenceStartEvent"):
            self._open.append((anchor, self.total))
            self.total += 1
        elif kind in ("MappingEndEvent", "SequenceEndEvent"):
            name, before = self._open.pop()
            if name is not None:
                self._anchors[name] = self.total - before
        elif kind == "ScalarEvent":
            size = 1 + len(event.value) // 16
            self.total += size
            if anchor is not None:
                self._anchors[anchor] = size
        return None


def _yaml_problem(event: Any, depth: int) -> str | None:
    """What a config may not hold, in one event of the YAML parser."""
    kind = type(event).__name__
    if depth > MAX_DEPTH:
        return f"values are nested more than {MAX_DEPTH} deep"
    tag = str(getattr(event, "tag", None) or "")
    if tag not in ("", "!") and tag.removeprefix(_YAML) not in _YAML_TAGS:
        return f"the YAML tag {tag[:60]!r} is not allowed"
    if kind == "ScalarEvent" and (tag or event.implicit[0]):
        if len(event.value) > 4_300 and _YAML_NUMBER.match(event.value):
            return "a number of more than 4300 digits"
        if _YAML_DATE.match(event.value) and not tag:
            return f"{event.value[:30]} is a date, which is not data; put it in quotes"
    return None


def _line(mark: Any) -> int:
    """The line of a YAML mark, counted from 1."""
    return mark.line + 1 if mark else 1
