"""The server's own copy of a model's weights, so that nobody changes them while they are in use.

Runners map weights. If they mapped the operator's file, a new version written in its place would
change the answers at once, and half a file would crash every runner that starts. So the first
runner of a generation copies the file to the runtime directory, and all map the copy. At a reload
the file is compared by its hash with the copy of the previous generation, which is linked if they
are equal.
"""

import fcntl
import hashlib
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

from cupola.bundles.weight_copies import copied_files
from cupola.errors import BundleError
from cupola.serve.ipc import paths

CHUNK = 4 * 1024**2  # bytes
FICLONE = 0x40049409  # shares the blocks of two files where the file system can
HASHES = "hashes.json"


def own_weights(weights: Path, folder: Path, name: str) -> Path | None:
    """The copy of a weights file or folder, made if missing; None if there is no space for it, or
    if the weights are in several folders (adapters and their base, Megatron's ranks).

    `folder` is of this generation; those of earlier ones have the same name beside its parent.
    BundleError if a file changes while it is copied.
    """
    files = copied_files(weights)
    if files is None:
        return None
    folder.mkdir(mode=0o700, exist_ok=True)
    own = folder / name
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not own.is_dir() and not _make(files, own):
            return None
    return own if weights.is_dir() else own / weights.name


def remove_weights(home: Path, name: str) -> None:
    """Removes the files of a model that is not in use any more from a generation's folder."""
    sources, prepared = home / "sources", home / "weights"
    shutil.rmtree(sources / name, ignore_errors=True)
    for left in (sources / f"{name}.lock", prepared / f"{name}.lock",
                 prepared / f"{name}.safetensors"):  # fmt: skip
        with suppress(OSError):
            left.unlink(missing_ok=True)


def _make(files: list[Path], own: Path) -> bool:
    part = own.with_name(f".{own.name}.{os.getpid()}")
    earlier = own.parent.parent.parent.glob(f"g*/{own.parent.name}/{own.name}/{HASHES}")
    known = {
        digest: file.with_name(name)
        for file in earlier
        for name, digest in paths.read_json(file).items()
    }
    try:
        part.mkdir(mode=0o700)
        hashes = {file.name: _take(file, part / file.name, known) for file in files}
        (part / HASHES).write_text(json.dumps(hashes))
        part.rename(own)
    except OSError:
        return False
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return True


def _take(source: Path, target: Path, known: dict[str, Path]) -> str:
    """Links the known file of the same content, or copies `source`; returns its hash."""
    if known:
        with source.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        with suppress(KeyError, OSError):
            os.link(known[digest], target)
            return digest
    with source.open("rb") as file, target.open("xb") as copy:
        before = _state(file.fileno())
        with suppress(OSError):
            fcntl.ioctl(copy.fileno(), FICLONE, file.fileno())
        cloned = os.fstat(copy.fileno()).st_size > 0
        hashed = hashlib.sha256()
        while chunk := file.read(CHUNK):
            hashed.update(chunk)
            if not cloned:
                copy.write(chunk)
        if _state(file.fileno()) != before:
            raise BundleError(f"{source}: changed while it was copied; reload once it is complete")
    return hashed.hexdigest()


def _state(fd: int) -> tuple[int, int, int]:
    found = os.fstat(fd)
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns
