"""The compiled engine: AOTInductor's native code, kept on disk, so no later start compiles.

The code and the packed weights are one library, which all processes that open it share. On a GPU it
is a package of kernels instead.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cupola.runtime.optimize.building import ADVICE, UnfinishedError
from cupola.runtime.optimize.engines import Engine, Situation
from cupola.runtime.optimize.graphs import with_graph
from cupola.runtime.optimize.machine import digest_of
from cupola.runtime.optimize.network import EngineUnavailableError
from cupola.runtime.optimize.tracing import short

COMPILERS = ("g++", "c++", "clang++")
LEAST_SECONDS = 30.0  # in less, no network of a size that "auto" measures is compiled


class Compiled(Engine):
    """torch.compile's code generator, ahead of time."""

    name = "compiled"
    cost = 2  # a C++ compiler takes several times as long as the export of an ONNX graph

    def missing(self, device: torch.device) -> str | None:
        if device.type not in ("cpu", "cuda"):
            return f"compiles for the CPU and CUDA, and the model is on {device}"
        wanted = (os.environ["CXX"],) if os.environ.get("CXX") else COMPILERS
        if not any(map(shutil.which, wanted)):
            return f"no C++ compiler ({' or '.join(wanted)}) on PATH"
        return None

    def model_of(self, situation: Situation) -> Any:
        if situation.folder is None:
            raise EngineUnavailableError("no folder to keep the code in; set CUPOLA_CACHE")
        on_gpu = situation.device.type == "cuda"
        name = digest_of(f"contiguous {situation.call().signature!r}")[:16]
        path = situation.folder / f"{name}{'.pt2' if on_gpu else '.so'}"
        hopeless = situation.seconds_left() < LEAST_SECONDS
        if hopeless and situation.build and not path.exists():
            raise UnfinishedError(
                f"not built: that takes more than {LEAST_SECONDS:.0f} s; {ADVICE}"
            )
        kind = "package" if on_gpu else "library"
        return with_graph(situation, kind, path, (), lambda: Library(path, situation.device))


class Library:
    """One compiled graph."""

    def __init__(self, path: Path, device: torch.device) -> None:
        self.device = device
        try:
            self.runner = _open(path, device)
        except RuntimeError as error:
            path.unlink(missing_ok=True)
            raise EngineUnavailableError(f"the compiled code is damaged: {short(error)}") from None

    def __call__(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        found: list[Tensor] = self.runner.run([each.contiguous() for each in tensors])
        return found


def _open(path: Path, device: torch.device) -> Any:
    from torch._C import _aoti

    if device.type == "cpu":
        return _aoti.AOTIModelContainerRunnerCpu(str(path), 1)
    number = device.index or 0
    return _aoti.AOTIModelPackageLoader(str(path), "model", False, 1, number)
