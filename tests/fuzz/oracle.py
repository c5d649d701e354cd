"""python -m fuzz.oracle KIND FIRST COUNT, or all FILE...: made-up files, read under watch.

Runs in a process of its own, with little memory. Each file must be read, or end in one clear error
of its kind; either within limits of processor time and memory, and without doing anything but
opening files in its own folder. Prints a line of JSON per fault, and a summary.
"""

import json
import os
import random
import re
import resource
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MEMORY = 4 * 2**30  # bytes of address space, of which libraries take half
SECONDS, PEAK, LONGEST_MESSAGE = 2.0, 200e6, 5000
HARMLESS = (
    "id", "builtins.id", "compile", "exec", "object.__getattr__", "object.__setattr__", "import",
    "code.__new__", "marshal.", "os.fork", "signal.", "sys._getframe", "sys.excepthook", "mmap.",
    "os.listdir", "os.scandir", "array.__new__", "ctypes.PyObj_FromPtr", "os.putenv", "_thread.",
    "gc.", "resource.",
)  # fmt: skip
SYSTEM = (
    "/proc/self/",
    "/sys/fs/cgroup",
    sys.prefix,
    sys.base_prefix,
    str(Path(__file__).parents[2]),
)


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    make: the bytes of a made-up file, and the ending of its name. prepare: writes what belongs to
    it. read: reads a file, or raises one of `errors`, whose message names the file's folder.
    """

    make: Callable[[random.Random], tuple[bytes, str]]
    read: Callable[[Path], object]
    errors: tuple[type[Exception], ...]
    prepare: Callable[[Path], object] = Path.exists


Case = tuple[Kind, str, bytes, str]  # kind, name, content, ending of the file's name


class Watch:
    """Writes what happens in this process, and in those that it forks, to a file."""

    def __init__(self, folder: Path) -> None:
        self.active = False
        self._folder = str(folder)
        self._log = os.open(folder / "log", os.O_CREAT | os.O_RDWR | os.O_APPEND)
        sys.addaudithook(self._see)

    def seen(self) -> str:
        """What has happened since the last call."""
        found = os.pread(self._log, 1000, 0).decode(errors="replace")
        os.truncate(self._log, 0)
        return found

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.active or event.startswith(HARMLESS):
            return
        if event == "open" and self._may_open(*arguments):
            return
        os.write(self._log, f"{event} {arguments!r:.200}\n".encode(errors="replace"))

    def _may_open(self, path: Any, _: Any, flags: int) -> bool:
        if not isinstance(path, (str, bytes)):
            return True  # a descriptor that is open already
        name = os.path.abspath(os.fsdecode(path))
        if name == os.devnull or name.startswith(self._folder):
            return True
        return name.startswith(SYSTEM) and not flags & (os.O_WRONLY | os.O_RDWR)


def seconds() -> float:
    """Processor time of this process and of its children that have ended."""
    return sum(os.times()[:4])


def memory(name: str) -> int:
    """Bytes that this process has (VmRSS) or had at most since `reset_peak` (VmHWM)."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


def fault(kind: Kind, path: Path, watch: Watch) -> tuple[str | None, bool]:
    """What is wrong with the reading of one file, if anything, and whether it was read."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    kind.prepare(path)
    before, began, message = memory("VmRSS"), seconds(), None
    watch.active = True
    try:
        kind.read(path)
    except kind.errors as error:
        message = str(error)
    except BaseException:
        return traceback.format_exc()[-900:], False
    finally:
        watch.active = False
    took, grown, seen = seconds() - began, memory("VmHWM") - before, watch.seen()
    if seen:
        return f"reading did {seen}", False
    if took > SECONDS:
        return f"reading took {took:.2f} s", False
    if grown > PEAK + path.stat().st_size:
        return f"reading took {grown / 1e6:.0f} MB", False
    return (None if message is None else unclear(message, path)), message is None


def unclear(message: str, path: Path) -> str | None:
    """What is wrong with a message."""
    if len(message) > LONGEST_MESSAGE or not message.replace("\t", "").isprintable():
        return f"not one printable line: {message!r:.500}"
    if str(path.parent) not in message:
        return f"does not name its file: {message}"
    return None


def cases(kinds: dict[str, Kind], name: str, arguments: list[str]) -> Iterator[Case]:
    """The files of seeds FIRST to FIRST + COUNT, or files in folders that are named by kind."""
    if not arguments[0].isdecimal():
        for path in map(Path, arguments):
            yield kinds[path.parent.name], str(path), path.read_bytes(), path.suffix
        return
    chosen = {name: kinds[name]} if name in kinds else kinds
    for each, kind in chosen.items():
        for seed in range(int(arguments[0]), sum(map(int, arguments))):
            yield kind, f"{each} {seed}", *kind.make(random.Random(seed))


def main() -> None:
    """Reads what the arguments say; FUZZ_KEEP is a folder for the files with faults."""
    from fuzz.kinds import KINDS

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    keep = os.environ.get("FUZZ_KEEP")
    read = count = 0
    with tempfile.TemporaryDirectory() as folder:
        watch = Watch(Path(folder))
        for kind, name, data, suffix in cases(KINDS, sys.argv[1], sys.argv[2:]):
            path = Path(folder) / f"case{suffix}"
            path.write_bytes(data)
            print(name, file=sys.stderr, flush=True)  # the last one is what crashed this process
            found, was_read = fault(kind, path, watch)
            read, count = read + was_read, count + 1
            if found:
                print(json.dumps({"file": name, "fault": found}), flush=True)
                if keep:
                    (Path(keep) / f"{name.replace(' ', '-')}{suffix}").write_bytes(data)
            path.unlink()
    print(json.dumps({"count": count, "read": read}))


if __name__ == "__main__":
    main()
