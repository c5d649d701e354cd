"""Reads a config file and its bases into one dict."""

import ast
import os
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cupola.config.bases import Roots
from cupola.config.budget import Budget
from cupola.config.dicts import ConfigDict, Origin
from cupola.config.formats import CONFIG_SUFFIXES, parse_data
from cupola.config.functions import Functions, Module
from cupola.config.lazy import LazyName, names_as_text
from cupola.config.merge import merge
from cupola.config.pyfile import BASE, PythonFile
from cupola.config.source import ENV_VARIABLE, fill_variables, parse, read_text
from cupola.config.vetting import vet
from cupola.errors import ConfigError, printable

RESERVED = ("filename", "text", "pretty_text", "env_variables")


def read(
    path: Path,
    roots: Sequence[Path] = (),
    env: Iterable[str] = (),
    budget: Budget | None = None,
) -> ConfigDict:
    """Everything that the file and its bases say; ConfigError names file and line.

    Bases may be in the project of the file, in `roots`, or in an installed package (pkg::path).
    `env` are names of environment variables that may be read, besides those that the variable
    CUPOLA_CONFIG_ENV lists.
    """
    listed = os.environ.get(ENV_VARIABLE, "").replace(",", " ").split()
    reader = Reader(Roots.around(path, roots), budget or Budget(), {*env, *listed})
    made = reader.read(path.absolute())
    for key in RESERVED:
        if key in made:
            raise ConfigError(f"{made.origins.get(key, path)}: the key {key!r} is reserved")
    if reader.has_imports:
        names_as_text(made)
    vet(made, path)
    return made


class Reader:
    """One reading: what may be read, what it may cost, and which files are open."""

    def __init__(self, roots: Roots, budget: Budget, env: Collection[str] = ()) -> None:
        self.budget = budget
        self._functions = Functions(budget)
        self._env = env
        self._roots = roots
        self._open: list[Path] = []
        self.has_imports = False

    def read(self, path: Path) -> ConfigDict:
        """One file with its bases; for a lazy config without the names of its imports."""
        made, imported = self._read(path)
        for name in imported:
            made.pop(name, None)
        return made

    def _read(self, path: Path) -> tuple[ConfigDict, set[str]]:
        if path in self._open:
            chain = " -> ".join(each.name for each in (*self._open, path))
            raise ConfigError(f"{path}: the bases form a cycle: {chain}")
        if path.suffix not in CONFIG_SUFFIXES:
            raise ConfigError(f"{path}: a config ends in one of {', '.join(CONFIG_SUFFIXES)}")
        text, placeholders = fill_variables(
            read_text(path, self.budget), path, self.budget, self._env
        )
        self._open.append(path)
        try:
            if path.suffix == ".py":
                return self._read_python(path, text, placeholders)
            return self._read_data(path, text, placeholders), set()
        finally:
            self._open.pop()

    # -- Python ----------------------------------------------------------------------------------

    def _read_python(
        self, path: Path, text: str, placeholders: dict[str, str]
    ) -> tuple[ConfigDict, set[str]]:
        tree = parse(text, str(path))
        base = self._python_bases(path, tree)
        names: dict[str, Any] = {BASE: base}
        file = PythonFile(str(path), names, self._functions, self._lazy_base)
        file.run(tree.body)
        names.pop(BASE, None)
        self.has_imports |= bool(file.imported)
        if any(isinstance(names.get(name), LazyName) for name in file.imported):
            file.imported |= file.constants  # a lazy config keeps nothing that it imports
        made = ConfigDict()
        for name, value in names.items():
            is_import = name in file.imported and not isinstance(value, LazyName)
            if not name.startswith("__") and not is_import and not isinstance(value, Module):
                line = file.lines.get(name)
                if line:
                    made.origins[name] = Origin(str(path), line)
                with _located(f"{path}:{line or 1}: {name}"):
                    fresh = self._fill(self.budget.adopt(value), placeholders, base)
                dict.__setitem__(made, name, fresh)
        _pop_deprecation(path, made)
        with _located(str(path)):
            return merge(made, base), file.imported

    def _python_bases(self, path: Path, tree: ast.Module) -> ConfigDict:
        for statement in tree.body:
            if isinstance(statement, ast.Assign):
                target = statement.targets[0]
                if isinstance(target, ast.Name) and target.id == BASE:
                    value = PythonFile(str(path), {}, self._functions, self._lazy_base).value(
                        statement.value
                    )
                    return self._bases(path, value, statement.lineno)
        return ConfigDict()

    def _lazy_base(self, level: int, module: str) -> tuple[ConfigDict, set[str]]:
        """What `from ..module import` reads inside `with read_base():`."""
        here = self._open[-1]
        return self._read(self._roots.module_path(here, level, module))

    # -- JSON, YAML, TOML ------------------------------------------------------------------------

    def _read_data(self, path: Path, text: str, placeholders: dict[str, str]) -> ConfigDict:
        data = parse_data(path, text, self.budget)
        base = self._bases(path, data.pop(BASE, []), 1)
        with _located(f"{path}:1"):
            made = self._fill(self.budget.adopt(data), placeholders, base)
        made.origins.update(dict.fromkeys(made, Origin(str(path), 1)))
        _pop_deprecation(path, made)
        with _located(str(path)):
            return merge(made, base)

    # -- bases -----------------------------------------------------------------------------------

    def _bases(self, path: Path, value: Any, line: int) -> ConfigDict:
        """The variables of all bases together; a name that two of them define is an error."""
        together = ConfigDict()
        for name in value if isinstance(value, list) else [value]:
            if not isinstance(name, str):
                self.budget.weigh(name, as_text=True)
                raise ConfigError(f"{path}:{line}: {BASE} holds {name!r:.40}, which is not a path")
            found, scope = self._roots.base_path(path, line, name)
            base = self.read(found)
            if twice := together.keys() & base.keys():
                raise ConfigError(
                    f"{path}:{line}: {sorted(twice)[0]!r} is defined by two bases: "
                    f"{together.origins.get(min(twice))} and {base.origins.get(min(twice))}"
                )
            _mark_scope(base, scope)
            together.update(base)
        return together

    def _fill(self, value: Any, placeholders: dict[str, str], base: ConfigDict) -> Any:
        """Replaces each placeholder in a tree by a copy of the value of the base it refers to."""
        if not placeholders:
            return value
        if isinstance(value, str) and value in placeholders:
            found: Any = base
            for key in placeholders[value].split("."):
                if not isinstance(found, dict) or key not in found:
                    raise ConfigError(f"no base has {{{{ _base_.{placeholders[value]} }}}}")
                found = found[key]
            self.budget.step()
            return self.budget.adopt(found)
        if isinstance(value, dict):
            for key, item in value.items():
                dict.__setitem__(value, key, self._fill(item, placeholders, base))
            return value
        if isinstance(value, list | tuple):
            return type(value)([self._fill(item, placeholders, base) for item in value])
        return value


@contextmanager
def _located(where: str) -> Iterator[None]:
    """Puts the place in front of the message of a ConfigError."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _pop_deprecation(path: Path, made: ConfigDict) -> None:
    """Warns about a deprecated file and removes the note from the config."""
    notice = made.pop("_deprecation_", None)
    if isinstance(notice, dict):
        advice = f"; use {notice['expected']}" if "expected" in notice else ""
        more = f" (see {notice['reference']})" if "reference" in notice else ""
        text = printable(f"{path} is to be replaced{advice[:200]}{more[:200]}")
        warnings.warn(text, FutureWarning, stacklevel=2)


def _mark_scope(value: Any, scope: str | None) -> None:
    """Sets `_scope_` in the outermost dicts with a type, when they come from another package."""
    if scope is None:
        return
    if isinstance(value, dict):
        if "type" in value:
            value.setdefault("_scope_", scope)
            return
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            _mark_scope(item, scope)
