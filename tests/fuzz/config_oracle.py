"""python -m fuzz.config_oracle FIRST COUNT, or FILE...: Cupola's reading against CPython's.

Runs in a process of its own, with little memory. A program that Cupola reads must give what
CPython's `exec` gives, type for type, and CPython must not have wanted to leave the program (an
audit hook forbids it); one that Cupola refuses must end in one ConfigError. While Cupola reads,
nothing may happen but opening that file and parsing it. Prints a line of JSON per fault, and a
summary.
"""

import copy
import json
import math
import os.path
import re
import resource
import sys
import tempfile
import time
import traceback
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from cupola.config import Config
from cupola.errors import ConfigError
from fuzz.config_programs import Programs

MEMORY = 2 * 10**9  # bytes of address space
SECONDS, PEAK = 1.0, 200e6
HARMLESS = {"builtins.id", "compile", "exec", "object.__getattr__", "code.__new__"}
IMPORTS = (copy, math, os.path)  # so that an import in a program loads nothing


class Watch:
    """An audit hook that can be switched: what happens is recorded, or forbidden as well."""

    def __init__(self) -> None:
        self.events: list[str] | None = None
        self.forbid = False
        self.path = ""
        sys.addaudithook(self._see)

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.events is None or event in HARMLESS:
            return
        if event == "open" and not self.forbid and arguments[0] == self.path:
            return
        self.events.append(f"{event} {arguments!r:.200}")
        if self.forbid:
            raise PermissionError(event)


def same(ours: Any, theirs: Any) -> bool:
    """Whether two values are equal with all types, orders of keys, and NaN."""
    if type(ours) is not type(theirs):
        return False
    if isinstance(ours, dict):
        pairs = zip(ours.items(), theirs.items(), strict=False)
        return len(ours) == len(theirs) and all(same(a, b) for a, b in pairs)
    if isinstance(ours, list | tuple):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(ours, set | frozenset):
        return sorted(map(repr, ours)) == sorted(map(repr, theirs))
    return repr(ours) == repr(theirs)


def by_python(text: str) -> dict[str, Any]:
    """The variables that CPython's `exec` leaves, without what is no data."""
    names: dict[str, Any] = {"__name__": "config"}
    exec(compile(text, "program", "exec"), names)
    functions = (ModuleType, FunctionType, BuiltinFunctionType)
    return {
        name: value
        for name, value in names.items()
        if not name.startswith("__") and not isinstance(value, functions)
    }


def fault(path: Path, watch: Watch) -> tuple[str | None, bool]:
    """What is wrong with the reading of one file, if anything, and whether it was read."""
    text = path.read_text()
    watch.path = str(path)
    watch.events, watch.forbid = [], False
    began, ours, end = time.process_time(), None, ""
    try:
        ours = Config.load(path).to_dict()
    except ConfigError as error:
        end = str(error)
    except BaseException:
        watch.events = None
        return traceback.format_exc()[-600:], False
    took, seen = time.process_time() - began, watch.events
    watch.events = None
    if seen:
        return f"reading did {seen[:3]}", False
    if took > SECONDS:
        return f"reading took {took:.2f} s", False
    if ours is None:
        is_clear = "\n" not in end and re.match(rf"{re.escape(str(path))}:\d+: ", end)
        return None if is_clear else f"not one line with its place: {end!r}", False
    watch.events, watch.forbid = [], True
    try:
        theirs = by_python(text)
    except Exception as error:
        return f"read as {ours!r:.300}, where Python says {error!r} {watch.events}", True
    finally:
        watch.events = None
    return None if same(
        ours, theirs
    ) else f"read as {ours!r:.300}\ninstead of {theirs!r:.300}", True


def main() -> None:
    """Reads the programs of seeds FIRST to FIRST + COUNT, or files."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    watch = Watch()
    read = count = 0
    with tempfile.TemporaryDirectory() as folder:
        Config.load(_written(Path(folder), "x = 1"))  # imports what is imported on first use
        seeds = range(int(sys.argv[1]), sum(map(int, sys.argv[1:3]))) if len(sys.argv) == 3 else ()
        for each in seeds or map(Path, sys.argv[1:]):
            if isinstance(each, int):
                path = _written(Path(folder), Programs(each).program())
            else:
                path = each.resolve()
            found, was_read = fault(path, watch)
            read, count = read + was_read, count + 1
            if found:
                print(json.dumps({"program": str(each), "text": path.read_text(), "fault": found}))
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    print(json.dumps({"count": count, "read": read, "peak": int(peak[1]) * 1024 if peak else 0}))


def _written(folder: Path, text: str) -> Path:
    path = folder / "program.py"
    path.write_text(text)
    return path


if __name__ == "__main__":
    main()
