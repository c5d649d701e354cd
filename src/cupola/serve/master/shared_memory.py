"""How much of the runtime directory, usually /dev/shm, the models need; for `cupola check`.

Runners map one copy of a model's weights (runners/own_weights.py). If the weights in memory differ
from the file's, a prepared file is mapped as well (runners/shared_weights.py). A reload may need
all of it once more, since the old generation serves until the new one is ready.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from cupola.bundles.bundle import read_folder
from cupola.bundles.weight_copies import copied_files
from cupola.errors import BundleError
from cupola.serve.ipc import paths
from cupola.serve.settings.models import ModelPlan
from cupola.serve.settings.settings import Settings

PER_WORKER, PER_RUNNER = 512 * 1024, 128 * 1024  # counters, scoreboards
PREPARED_FROM = 8 * 1024**2  # bytes in memory; smaller models are not prepared
HEADER_LIMIT = 100 * 1024**2  # bytes, as in safetensors itself
_FLOAT32 = 4
_HALVES = ("F16", "BF16")


@dataclass(frozen=True)
class SharedMemory:
    """Bytes by model, those of the server, and of the folder's file system."""

    folder: Path
    models: dict[str, int]
    server: int
    body: int  # the largest one
    size: int  # of the file system

    @property
    def total(self) -> int:
        """What a running server needs, without bodies."""
        return sum(self.models.values()) + self.server

    @property
    def reload(self) -> int:
        """The same while a reload with other weights is under way."""
        return self.total + sum(self.models.values())


def shared_memory(settings: Settings, plans: Sequence[ModelPlan]) -> SharedMemory:
    """The need of a server with these settings; BundleError if weights cannot be read."""
    folder = paths.runtime_root(settings.runtime_dir)
    existing = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    runners = sum(plan.runners * plan.tensor_parallel for plan in plans)
    return SharedMemory(
        folder,
        {f"{plan.name}:{plan.version}": weight_bytes(plan) for plan in plans},
        settings.worker_count * PER_WORKER + runners * PER_RUNNER,
        settings.max_body,
        shutil.disk_usage(existing).total,
    )


def weight_bytes(plan: ModelPlan) -> int:
    """Bytes of the copy of a model's weights and, at most, of the prepared file."""
    bundle = read_folder(Path(plan.path))
    if "model" not in bundle.config:
        return 0
    try:
        files = copied_files(bundle.weights_path) or []
        copied = sum(file.stat().st_size for file in files)
        tensors = [tensor for file in files for tensor in _tensors(file)]
    except (OSError, ValueError) as error:
        raise BundleError(f"{bundle.weights_path}: cannot read the weights: {error}") from None
    in_memory = sum(_FLOAT32 * prod(about["shape"]) for _, about in tensors)
    differ = any(
        about["dtype"] in _HALVES or name.endswith("running_var") for name, about in tensors
    )
    prepared = differ and plan.tensor_parallel == 1 and in_memory > PREPARED_FROM
    return copied + (in_memory if prepared else 0)


def _tensors(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name, type and shape of the tensors of a safetensors file, read from its header."""
    if file.suffix != ".safetensors":
        return
    with file.open("rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        if size > HEADER_LIMIT:
            raise ValueError("not a safetensors file")
        for name, about in dict(json.loads(opened.read(size))).items():
            if name != "__metadata__":
                yield name, {"dtype": str(about["dtype"]), "shape": list(map(int, about["shape"]))}


def report(need: SharedMemory) -> list[str]:
    """Lines for the terminal; the last ones warn if the file system is too small."""
    width = max(map(len, (*need.models, "server")))
    rows = [*need.models.items(), ("server", need.server), ("total", need.total)]
    lines = [f"shared memory in {need.folder}:"]
    lines += [f"  {name:{width}} {_mib(size):>12}" for name, size in rows]
    lines.append(
        f"  up to {_mib(need.reload)} during a reload with other weights, and bodies over "
        f"shm_threshold while they are in progress (max_body is {_mib(need.body)})"
    )
    if need.size < need.reload + need.body:
        lines.append(
            f"warning: the file system of {need.folder} holds {_mib(need.size)}. Weights that do "
            "not fit are held by each runner, and bodies are answered 503. Enlarge it (docker run "
            "--shm-size, a volume of medium Memory in Kubernetes), lower max_body or set "
            "runtime_dir."
        )
    return lines


def _mib(size: int) -> str:
    return f"{size / 1024**2:.1f} MiB"
