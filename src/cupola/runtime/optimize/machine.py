"""What a measured choice and a compiled graph depend on, and the folder that keeps them.

The folder is `CUPOLA_CACHE`, else `cupola` in `XDG_CACHE_HOME` or `~/.cache`. Compiled graphs are
native code, so a folder that somebody else could write to is not used.
"""

import hashlib
import inspect
import json
import os
import platform
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch

PROCESSOR = ("model name", "flags", "Features", "CPU part")  # fields of /proc/cpuinfo
REMEMBERED = "_digest_as_loaded"  # an attribute of models
WHOLE = 2 * 1024**3  # bytes of a model whose every weight is hashed
PART = 64 * 1024  # bytes of each tensor of a larger one


def cache_folder() -> Path | None:
    """The folder for choices and graphs, made if missing; None if there is no safe one."""
    base = os.environ.get("CUPOLA_CACHE")
    with suppress(OSError, RuntimeError):  # RuntimeError: the user has no home
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = (Path(base) if base else root / "cupola") / "optimizations"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = folder.stat()
        foreign = about.st_uid != os.geteuid() or about.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if not foreign and os.access(folder, os.W_OK):
            return folder.resolve()
    return None


@cache
def processor() -> dict[str, str]:
    """The processor's name, and a digest of its name and instruction sets."""
    found: dict[str, str] = {}
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() in PROCESSOR:
                found.setdefault(name.strip(), value.strip())
    if not found:
        found = {"model name": platform.processor() or platform.machine()}
    found["capability"] = torch.backends.cpu.get_cpu_capability()
    name = found.get("model name", platform.machine())
    return {"name": name, "digest": _digest([json.dumps(found, sort_keys=True).encode()])}


def model_digest(model: Any, config: Mapping[str, Any]) -> str:
    """A digest of a model's weights, of its classes and their files, and of its config.

    That of the model before `remember_digest` and what came after, if it was called.
    """
    known = model.__dict__.get(REMEMBERED)
    if known is not None:
        return str(known)
    return _digest([*_code(model), *_weights(model), _text(config)])


def remember_digest(model: Any, config: Mapping[str, Any]) -> None:
    """Gives the model, and copies of it, the digest that it has now: before norms are folded."""
    model.__dict__[REMEMBERED] = model_digest(model, config)


def key_of(digest: str, device: torch.device) -> dict[str, Any]:
    """Everything that a choice depends on, as JSON, for a model of that `model_digest`."""
    about = processor()
    key = {
        "processor": about["name"],
        "instructions": about["digest"],
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": _device(device),
        "model": digest,
    }
    return key | {name: version for name, version in _libraries().items() if version}


def folder_of(key: Mapping[str, Any]) -> Path | None:
    """The folder of a key in the cache folder; None if there is none."""
    base = cache_folder()
    if base is None:
        return None
    folder = base / _digest([json.dumps(key, sort_keys=True).encode()])[:32]
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError:
        return None
    return folder


def _libraries() -> dict[str, str | None]:
    from importlib.metadata import PackageNotFoundError, version

    def find(name: str) -> str | None:
        with suppress(PackageNotFoundError):
            return version(name)
        return None

    return {name: find(name) for name in ("cupola", "onnxruntime", "openvino")}


def _device(device: torch.device) -> str:
    if device.type != "cuda":
        return str(device)
    return f"{device.type} {torch.cuda.get_device_name(device)}"


def _text(config: Mapping[str, Any]) -> bytes:
    return json.dumps(config, sort_keys=True, default=repr).encode()


def _code(model: Any) -> Iterable[bytes]:
    """The classes of a model, with the state of the files that define them."""
    kinds = {type(each) for each in model.modules()}  # in an order of its own in every process
    for kind in sorted(kinds, key=lambda each: (each.__module__, each.__qualname__)):
        file, about = "", ""
        with suppress(OSError, TypeError):
            file = inspect.getfile(kind)
            found = Path(file).stat()
            about = f"{found.st_size} {found.st_mtime_ns}"
        yield f"{kind.__module__}.{kind.__qualname__} {file} {about}\n".encode()


def _weights(model: Any) -> Iterable[bytes | memoryview]:
    named = [*model.named_parameters(), *model.named_buffers()]
    sampled = sum(each.nbytes for _, each in named) > WHOLE
    for name, each in named:
        yield f"{name} {list(each.shape)} {each.dtype}\n".encode()
        flat = each.detach().cpu().contiguous().view(-1)
        flat = torch.view_as_real(flat).view(-1) if flat.is_complex() else flat
        if sampled:
            flat = flat[: PART // max(1, each.element_size())]
        found: Any = flat.view(torch.uint8).numpy()
        yield memoryview(found)


def _digest(parts: Iterable[bytes | memoryview]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()


def digest_of(text: str) -> str:
    """The hexadecimal digest of a text."""
    return _digest([text.encode()])
