"""Source text and syntax trees of config files, within limits, with {{...}} filled in."""

import ast
import os
import re
import warnings
from functools import lru_cache
from pathlib import Path

from cupola.config.budget import Budget
from cupola.errors import ConfigError

_ENVIRONMENT = re.compile(r"\{\{['\"]?\s*\$(\w+)\s*:\s*(\S*?)\s*['\"]?\}\}")
_BASE_VARIABLE = re.compile(r"\{\{\s*_base_\.([\w.]+)\s*\}\}")
_FILE_VARIABLE = re.compile(
    r"\{\{\s*(fileDirname|fileBasename|fileBasenameNoExtension|fileExtname)\s*\}\}"
)
_SMALL = 5_000  # characters; a syntax tree takes 500 times the memory of its text


def read_text(path: Path, budget: Budget) -> str:
    """The text of a config file; ConfigError when it is missing, too large or not UTF-8."""
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise ConfigError(f"{path}: not a regular file")
        if size > budget.max_file:
            raise ConfigError(f"{path}: {size} bytes; a config has at most {budget.max_file}")
        budget.source -= size
        budget.files -= 1
        if budget.source < 0 or budget.files < 0:
            raise ConfigError(f"{path}: the config has too many or too large bases")
        data = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if b"\0" in data:
        line = data[: data.index(b"\0")].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: a NUL byte")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: not UTF-8: {error.reason}") from None


def fill_variables(text: str, path: Path) -> tuple[str, dict[str, str]]:
    """Replaces {{ fileBasename }} and friends and {{ $NAME:default }}.

    Returns the text, and the placeholder strings that stand for {{ _base_.a.b }}, each with its
    dotted path.
    """
    if "{{" not in text:
        return text, {}
    known = {
        "fileDirname": str(path.parent),
        "fileBasename": path.name,
        "fileBasenameNoExtension": path.stem,
        "fileExtname": path.suffix,
    }
    text = _FILE_VARIABLE.sub(lambda m: known[m[1]].replace("\\", "/"), text)
    text = _ENVIRONMENT.sub(lambda match: _environment(match, path), text)
    placeholders: dict[str, str] = {}

    def hold(match: re.Match[str]) -> str:
        placeholders[f"<<_base_.{match[1]}>>"] = match[1]
        return f'"<<_base_.{match[1]}>>"'

    return _BASE_VARIABLE.sub(hold, text), placeholders


def _environment(match: re.Match[str], path: Path) -> str:
    value = os.environ.get(match[1], match[2])
    if not value:
        raise ConfigError(
            f"{path}: the environment variable {match[1]} is not set and has no default here"
        )
    return value


def parse(text: str, file: str) -> ast.Module:
    """The syntax tree of a Python config; ConfigError with the line when it is no Python.

    The trees of the last few small files are kept, since configs share their bases.
    """
    return _parse_small(text, file) if len(text) <= _SMALL else _parse(text, file)


def _parse(text: str, file: str) -> ast.Module:
    _check_nesting(text, file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in the file's strings
            return ast.parse(text, file)
    except SyntaxError as error:
        raise ConfigError(f"{file}:{error.lineno or 1}: not valid Python: {error.msg}") from None
    except (RecursionError, MemoryError):
        raise ConfigError(f"{file}: expressions are nested too deep") from None
    except ValueError as error:
        raise ConfigError(f"{file}: not valid Python: {error}") from None


_parse_small = lru_cache(maxsize=64)(_parse)


def _check_nesting(text: str, file: str) -> None:
    """Refuses runs that would make the parser recurse without end, before it sees them."""
    for number, line in enumerate(text.splitlines(), 1):
        if len(line) > 2000 and re.search(r"([-+~(\[{]\s*|not\s+){80}", line):
            raise ConfigError(f"{file}:{number}: expressions are nested more than 80 deep")
