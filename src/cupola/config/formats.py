"""JSON, YAML and TOML configs: reading under the same limits as Python files, and writing."""

import json
import tomllib
from pathlib import Path
from typing import Any

from cupola.config.budget import Budget
from cupola.config.dump import to_python
from cupola.errors import ConfigError

# The suffixes of config files; a path that ends in one is never taken for a bundle.
CONFIG_SUFFIXES = (".py", ".json", ".yaml", ".yml", ".toml")
MAX_DEPTH = 80  # of nested values in YAML, whose parser slows down with depth


def parse_data(path: Path, text: str, budget: Budget) -> dict[str, Any]:
    """The mapping in a JSON, YAML or TOML text; ConfigError with the line when it is none."""
    try:
        if path.suffix == ".json":
            data = json.loads(text)
        elif path.suffix == ".toml":
            data = tomllib.loads(text)
        else:
            data = _load_yaml(path, text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path}: values are nested too deep") from None
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: a config is a mapping, and this is a {type(data).__name__}")
    budget.weigh(data)
    return data


def write(data: dict[str, Any], suffix: str) -> str:
    """The text of a config in the format of a file suffix; ConfigError for any other."""
    if suffix == ".py":
        return to_python(data)
    if suffix == ".json":
        return json.dumps(data, indent=2, ensure_ascii=False) + "\n"
    if suffix in (".yaml", ".yml"):
        import yaml

        listed = json.loads(json.dumps(data))  # tuples as lists, and no shared parts
        return yaml.safe_dump(listed, sort_keys=False, allow_unicode=True)
    raise ConfigError(f"a config is written as .py, .json or .yaml, not {suffix or 'nothing'!r}")


def _load_yaml(path: Path, text: str) -> Any:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    depth = 0
    try:
        for event in yaml.parse(text, Loader=loader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            where = f"{path}:{_line(event.start_mark)}"
            if isinstance(event, yaml.AliasEvent):
                raise ConfigError(f"{where}: YAML aliases are not allowed")
            if depth > MAX_DEPTH:
                raise ConfigError(f"{where}: values are nested more than {MAX_DEPTH} deep")
            tag = str(getattr(event, "tag", None) or "")
            if tag and (not tag.startswith("tag:yaml.org,2002:") or "python" in tag):
                raise ConfigError(f"{where}: the YAML tag {tag[:60]!r} is not allowed")
        return yaml.load(text, Loader=loader)
    except yaml.YAMLError as error:
        line = _line(getattr(error, "problem_mark", None))
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"{path}:{line}: not valid YAML: {problem}") from None


def _line(mark: Any) -> int:
    """The line of a YAML mark, counted from 1."""
    return mark.line + 1 if mark else 1
