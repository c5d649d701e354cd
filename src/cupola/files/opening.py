"""Opening untrusted files: inside their folder, regular, of a bounded size.

A name in an annotation file may be absolute, lead out of its folder or be a pipe or a device that
never ends. Every function raises the caller's error class with the file's name in one line.
"""

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from cupola.errors import CupolaError, DataError

LARGEST_TEXT = 4 * 2**30  # bytes; COCO's largest annotation file has 0.5 GB, Objects365's 3 GB
LARGEST_SETTINGS, MOST_VALUES = 8 * 2**20, 100_000  # bytes, and lists and objects, of a config
LONGEST_NAME = 1000  # characters of a file's name; a path has at most 4096
FOLLOW_LINKS = "CUPOLA_FOLLOW_LINKS"  # set to 1 to allow links that leave their folder


def locate(root: Path, name: str | Path, error: type[CupolaError] = DataError) -> Path:
    """The path of `name` below `root`; `error` if it leads out of it.

    Names that are absolute or contain "..", and links that leave the folder, are refused, unless
    the environment sets CUPOLA_FOLLOW_LINKS=1, which allows such links. A snapshot in the cache of
    the Hugging Face hub consists of links to the blobs of its repository, which are allowed.
    """
    if not isinstance(name, str | Path):
        raise error(f"{root}: the file name is {name!r:.60}; expected a text")
    if len(str(name)) > LONGEST_NAME:
        raise error(f"{root}: a file name has {len(str(name))} characters ({str(name)!r:.60}...)")
    if any(each < " " for each in str(name)):
        shown = f"{str(name)!r:.200}"
        raise error(f"{root}: the file name {shown} contains a control character")
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise error(f"{name}: leads out of {root}; names must be relative to that folder")
    path = root / name
    if os.environ.get(FOLLOW_LINKS) == "1":
        return path
    try:
        target, home = path.resolve(), root.resolve()
        inside = target.is_relative_to(home) or _is_blob_of(target, home)
    except (OSError, RuntimeError, ValueError) as problem:  # loops, length, half characters
        raise error(f"{path}: cannot be resolved ({problem})") from None
    if not inside:
        raise error(
            f"{path}: is a link to {target}, outside its folder; point the data set's root "
            f"there, or set {FOLLOW_LINKS}=1 to follow such links"
        )
    return path


def _is_blob_of(target: Path, root: Path) -> bool:
    """Whether `root` is in a snapshot of the repository in the hub's cache that has the blob."""
    repository = target.parent.parent
    return target.parent == repository / "blobs" and root.is_relative_to(repository / "snapshots")


def open_regular(
    path: Path, limit: int = LARGEST_TEXT, error: type[CupolaError] = DataError
) -> BinaryIO:
    """A regular file of at most `limit` bytes, opened for reading; never waits for a pipe."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as problem:
        raise error(f"{str(path)!r:.200}: cannot be opened ({problem})") from None
    except OSError as problem:
        raise error(f"{path}: cannot be read ({problem.strerror})") from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise error(f"{path}: is {_kind(status.st_mode)}, not a regular file")
    if status.st_size > limit:
        os.close(descriptor)
        raise error(f"{path}: has {status.st_size} bytes, more than the {limit} accepted")
    return os.fdopen(descriptor, "rb")


def check_regular(path: Path, error: type[CupolaError] = DataError) -> None:
    """Raise `error` unless a library may open this path: a regular file."""
    open_regular(path, limit=2**63, error=error).close()


def read_bytes(
    path: Path, limit: int = LARGEST_TEXT, error: type[CupolaError] = DataError
) -> bytes:
    """The content of a regular file. A file that grows meanwhile is read to its first size."""
    with open_regular(path, limit, error) as file:
        try:
            return file.read(min(limit, os.fstat(file.fileno()).st_size))
        except (OSError, MemoryError) as problem:
            raise error(f"{path}: cannot be read ({problem or 'not enough memory'})") from None


def read_text(path: Path, limit: int = LARGEST_TEXT, error: type[CupolaError] = DataError) -> str:
    """The content of a UTF-8 file, without a byte order mark."""
    try:
        return read_bytes(path, limit, error).decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise error(f"{path}: is not UTF-8 text (byte {problem.start})") from None


def read_settings(
    path: Path, error: type[CupolaError] = DataError, limit: int = LARGEST_SETTINGS
) -> Any:
    """The values of a JSON file that describes a model: of bounded size, and not mostly lists.

    A list or object has 2 bytes in a file and takes 60 or more in memory.
    """
    return read_json(path, limit, error, MOST_VALUES)


def read_json(
    path: Path,
    limit: int = LARGEST_TEXT,
    error: type[CupolaError] = DataError,
    most: int | None = None,
) -> Any:
    """The values of a JSON file, with at most `most` lists and objects."""
    text = read_text(path, limit, error)
    if most is not None and text.count("[") + text.count("{") > most:
        raise error(f"{path}: has more than {most} lists and objects")
    try:
        return json.loads(text)
    except json.JSONDecodeError as problem:
        raise error(
            f"{path}: is not JSON (line {problem.lineno}, column {problem.colno}: {problem.msg})"
        ) from None
    except RecursionError:
        raise error(f"{path}: its JSON is nested too deeply") from None
    except ValueError as problem:  # an integer of thousands of digits
        raise error(f"{path}: is not usable JSON ({str(problem).splitlines()[0]})") from None


@contextmanager
def content_of(path: Path, what: str, error: type[CupolaError] = DataError) -> Iterator[None]:
    """While a file's content is used: raises `error`, "not `what`", where it is not of its form."""
    try:
        yield
    except CupolaError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as problem:
        raise error(f"{path}: not {what} ({problem!r:.300})") from None


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    if stat.S_ISFIFO(mode):
        return "a pipe"
    if stat.S_ISSOCK(mode):
        return "a socket"
    return "a device"
