"""The child process that writes a graph: `build_graph KIND PROGRAM OUT THREADS`.

The program is what the parent has traced; its operators are torch's, so no model and no plug-in is
imported here.
"""

import os
import shutil
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from cupola.runtime.export import OPSET
from cupola.runtime.onnx_simplifying import simplify


def write_onnx(program: Any, out: Path) -> None:
    """The program as an ONNX file."""
    settings: Any = {"dynamo": True, "verbose": False, "optimize": False}
    made = torch.onnx.export(program, (), opset_version=OPSET, **settings)
    assert made is not None
    simplify(made)
    made.save(str(out), external_data=False)


def write_library(program: Any, out: Path) -> None:
    """The program as native code of this processor, with its weights packed and inside."""
    from torch._inductor import aoti_compile_and_package

    package = out.with_suffix(".package.pt2")
    settings = {"freezing": True}
    aoti_compile_and_package(program, package_path=str(package), inductor_configs=settings)
    try:
        with zipfile.ZipFile(package) as archive:
            (name,) = [each for each in archive.namelist() if each.endswith(".wrapper.so")]
            with archive.open(name) as source, out.open("xb") as target:
                shutil.copyfileobj(source, target)
    finally:
        package.unlink()


def write_package(program: Any, out: Path) -> None:
    """The program as a package of kernels for the GPU."""
    from torch._inductor import aoti_compile_and_package

    aoti_compile_and_package(program, package_path=str(out))


KINDS: dict[str, Callable[[Any, Path], None]] = {
    "onnx": write_onnx,
    "library": write_library,
    "package": write_package,
}


def _end_with_parent() -> None:
    while os.read(0, 1):  # unbuffered: a lock on sys.stdin would abort this process's own end
        pass
    os._exit(1)


def main() -> None:
    kind, program, out, threads = sys.argv[1:]
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(int(threads))
    loaded = torch.export.load(program)
    Path(program).unlink()  # hundreds of megabytes, which nobody would remove if the parent died
    with torch.no_grad():
        KINDS[kind](loaded, Path(out))


if __name__ == "__main__":
    main()
