"""Source text and syntax trees of config files, within limits, with {{...}} filled in."""

import ast
import os
import re
import stat
import warnings
from collections.abc import Collection
from pathlib import Path

from cupola.config.budget import Budget
from cupola.errors import ConfigError

# All of these take time linear in the text: nothing repeated can match in two ways, and none of
# them reads past the next opening brackets.
_ENVIRONMENT = re.compile(r"\{\{['\"]?\s*+\$(\w++)\s*+:\s*+((?:(?!\{\{)\S)*?)\s*+['\"]?\}\}")
_BASE_VARIABLE = re.compile(r"\{\{\s*+_base_\.([\w.]++)\s*+\}\}")
_FILE_VARIABLE = re.compile(
    r"\{\{\s*+(fileDirname|fileBasename|fileBasenameNoExtension|fileExtname)\s*+\}\}"
)
_FORMATTED = re.compile(r"\b[rf]{1,2}[\"']", re.IGNORECASE)
_MAX_BRACES = 10_000  # Python 3.11 takes quadratic time for the fields of one f-string
_MAX_LINES = 50_000  # no more statements can be evaluated, and a short one takes 1.7 kB
_LONG_NUMBER = re.compile(r"(?<!\w)(?:0[xob][0-9a-f_]{1100}|[0-9][0-9_]{4300})", re.IGNORECASE)
_OPENINGS = re.compile(r"([-+~(\[{]\s*|not\s+){80}")
ENV_VARIABLE = "CUPOLA_CONFIG_ENV"  # names of variables that configs may read
_SMALL = 5_000  # characters; a syntax tree takes up to 500 times the memory of its text
_KEPT = 60_000  # characters of all texts whose trees are kept, the last used last
_trees: dict[tuple[str, str], ast.Module] = {}


def read_text(path: Path, budget: Budget) -> str:
    """The text of a config file; ConfigError when it is missing, too large or not UTF-8."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{path}: not a regular file")
        size = status.st_size
        if size > budget.max_file:
            raise ConfigError(f"{path}: {size} bytes; a config has at most {budget.max_file}")
        budget.source -= size
        budget.files -= 1
        if budget.source < 0 or budget.files < 0:
            raise ConfigError(f"{path}: the config has too many or too large bases")
        data = os.read(descriptor, size)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    finally:
        os.close(descriptor)
    if b"\0" in data:
        line = data[: data.index(b"\0")].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: a NUL byte")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: not UTF-8: {error.reason}") from None


def fill_variables(
    text: str, path: Path, budget: Budget, allowed: Collection[str] = ()
) -> tuple[str, dict[str, str]]:
    """Replaces {{ fileBasename }} and friends and {{ $NAME:default }}.

    Of the environment only the variables `allowed` are read. Returns the text, and the
    placeholders for {{ _base_.a.b }}, each with its dotted path.
    """
    if "{{" not in text:
        return text, {}
    known = {
        "fileDirname": str(path.parent),
        "fileBasename": path.name,
        "fileBasenameNoExtension": path.stem,
        "fileExtname": path.suffix,
    }

    def paid(value: str) -> str:
        budget.source -= len(value)
        if budget.source < 0:
            raise ConfigError(f"{path}: the text for {{{{...}}}} is too large")
        return value

    def environment(match: re.Match[str]) -> str:
        line = match.string.count("\n", 0, match.start()) + 1
        return paid(_environment(match[1], match[2], f"{path}:{line}", allowed))

    text = _FILE_VARIABLE.sub(lambda match: paid(known[match[1]].replace("\\", "/")), text)
    text = _ENVIRONMENT.sub(environment, text)
    placeholders: dict[str, str] = {}

    def hold(match: re.Match[str]) -> str:
        placeholders[f"<<_base_.{match[1]}>>"] = match[1]
        return f'"<<_base_.{match[1]}>>"'

    return _BASE_VARIABLE.sub(hold, text), placeholders


def _environment(name: str, default: str, where: str, allowed: Collection[str]) -> str:
    """The value of an environment variable that may be read, or else the default."""
    if os.environ.get(name) and name not in allowed:
        raise ConfigError(
            f"{where}: the config reads the environment variable {name}, which may hold a secret; "
            f"allow it with --env {name}, {ENV_VARIABLE}={name} or Config.load(..., env=[{name!r}])"
        )
    value = os.environ.get(name) or default
    if not value:
        raise ConfigError(
            f"{where}: the environment variable {name} is not set and has no default here"
        )
    return value


def parse(text: str, file: str) -> ast.Module:
    """The syntax tree of a Python config; ConfigError with the line if it is not Python.

    The trees of the last few small files are kept, since configs share their bases.
    """
    tree = _trees.pop((text, file), None) or _parse(text, file)
    if len(text) <= _SMALL:
        _trees[text, file] = tree
        while sum(len(each) for each, _ in _trees) > _KEPT:
            del _trees[next(iter(_trees))]
    return tree


def _parse(text: str, file: str) -> ast.Module:
    _check_nesting(text, file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in the file's strings
            return ast.parse(text, file)
    except SyntaxError as error:
        raise ConfigError(f"{file}:{error.lineno or 1}: not valid Python: {error.msg}") from None
    except (RecursionError, MemoryError):
        raise ConfigError(f"{file}:1: expressions are nested too deep") from None
    except ValueError as error:
        raise ConfigError(f"{file}:1: not valid Python: {error}") from None


def _check_nesting(text: str, file: str) -> None:
    """Refuses what would cost the parser too much, before it sees it."""
    if found := _LONG_NUMBER.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise ConfigError(f"{file}:{line}: an integer of more than 4096 bits")
    if text.count("\n") + text.count(";") > _MAX_LINES:
        raise ConfigError(f"{file}:1: more than {_MAX_LINES} lines or statements")
    if text.count("{") > _MAX_BRACES and _FORMATTED.search(text):
        raise ConfigError(f"{file}:1: more than {_MAX_BRACES} braces in a file with f-strings")
    for number, each in enumerate(text.splitlines(), 1):
        if len(each) > 2000 and _OPENINGS.search(each):
            raise ConfigError(f"{file}:{number}: expressions are nested more than 80 deep")
