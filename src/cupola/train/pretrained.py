"""`init_cfg=dict(type="Pretrained", checkpoint=...)`: initial weights of a part of the model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cupola import nn
from cupola.bundles.hub import download, is_hub_id
from cupola.errors import BuildError, BundleError, CheckpointError
from cupola.registry import bare_type
from cupola.train.checkpoints import training_state
from cupola.weights import LoadReport, load_weights, read_checkpoint

# Names of mmcv's model zoo whose files are named otherwise.
FILES = {
    "detectron2/resnet50_caffe": "resnet50_msra-5891d200.pth",
    "detectron2/resnet50_caffe_bgr": "resnet50_msra-5891d200.pth",
    "detectron2/resnet101_caffe": "resnet101_msra-6cc46731.pth",
    "detectron2/resnet101_caffe_bgr": "resnet101_msra-6cc46731.pth",
}


def load_pretrained(model: nn.Module, required: bool = True) -> list[str]:
    """Loads what each module's `init_cfg` of type Pretrained names; returns a line for each.

    A checkpoint is a file, a repository on the hub (hf://ORG/NAME), or a URL or a name such as
    torchvision://resnet50 that is looked for in torch's cache, where torchvision and MMDetection
    put their downloads. `prefix` chooses the entries below it. Every tensor that has the module's
    shape is loaded. A name that is not in the cache is not an error, but one of the
    lines. With `required` False, as for a run that has a load_from, only what was loaded is said.

    Raises CheckpointError if a file is missing or nothing fits, BuildError for a bad `init_cfg`.
    """
    lines = []
    for name, module in reversed([*model.named_modules()]):  # children first, as in mmengine
        found = getattr(module, "init_cfg", None)
        for cfg in found if isinstance(found, list | tuple) else (found,):
            if isinstance(cfg, Mapping) and bare_type(cfg) == "Pretrained":
                where = f"{name or 'model'}.init_cfg"
                loaded, line = _tried(module, cfg, where, required)
                if loaded or required:
                    lines.append(line)
    return lines


def _tried(
    module: nn.Module, cfg: Mapping[str, Any], where: str, required: bool
) -> tuple[bool, str]:
    """Whether weights were loaded, and what is to be said of it."""
    try:
        return _load(module, cfg, where)
    except CheckpointError:
        if required:
            raise
        return False, ""


def _load(module: nn.Module, cfg: Mapping[str, Any], where: str) -> tuple[bool, str]:
    checkpoint, prefix = cfg.get("checkpoint"), cfg.get("prefix")
    if not isinstance(checkpoint, str) or not checkpoint:
        raise BuildError(f"{where}: checkpoint is {checkpoint!r:.60}; expected a path or a name")
    try:
        path = find_checkpoint(checkpoint)
    except BundleError as error:
        return False, f"{where}: {error}; not loaded"
    if path is None:
        return False, (
            f"{where}: {checkpoint} is not loaded, since it is not in {cache()}; put its file "
            "there, set checkpoint to a file, or start from load_from"
        )
    if not path.exists():
        raise CheckpointError(
            f"{where}: {path} is missing; put the file there, name another checkpoint, or set "
            f"{where} to None to start from random weights"
        )
    try:
        state = training_state(path) or read_checkpoint(path)
        if prefix:
            state = _below(state, str(prefix).rstrip(".") + ".", str(path))
        report = load_weights(module, state, strict=False, fitting=True)
    except CheckpointError as error:
        hint = "" if prefix else "; `prefix` in init_cfg chooses a part of a checkpoint"
        raise CheckpointError(f"{where}: {path}: {error}{hint}") from None
    return True, f"{where}: {summary(report, len(module.state_dict()), str(path))}"


def _below(state: Mapping[str, Any], prefix: str, where: str) -> dict[str, Any]:
    found = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    if not found:
        first = sorted({key.partition(".")[0] for key in state})[:4]
        raise CheckpointError(f"no key begins with {prefix!r}; they begin with {', '.join(first)}")
    return found


def find_checkpoint(name: str) -> Path | None:
    """The file or folder of a checkpoint's path, URL or name; None if it is not in the cache.

    A path is not checked. Raises BundleError for a repository that cannot be downloaded.
    """
    if is_hub_id(name):
        return download(name)
    if "://" not in name:
        return Path(name)
    scheme, _, rest = name.partition("://")
    if scheme in ("http", "https"):
        file = cache() / rest.partition("?")[0].rpartition("/")[2]
        return file if file.is_file() else None
    rest = FILES.get(rest, rest).rpartition("/")[2]
    files = [cache() / rest, *sorted(cache().glob(f"{rest}-*.pth"))]
    return next((file for file in files if file.is_file()), None)


def cache() -> Path:
    """The folder of torch's downloaded checkpoints."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def summary(report: LoadReport, total: int, where: str) -> str:
    """One line on what was loaded, what was not in the checkpoint, and what was not used."""
    said = f"loaded {report.loaded} of {total} tensors from {where} (dialect {report.dialect})"
    if fresh := [*report.reshaped, *(f"{key} (not in the checkpoint)" for key in report.missing)]:
        said += f"; newly initialized: {_listed(fresh)}"
    if report.unexpected:
        said += f"; not used: {_listed(report.unexpected)}"
    return said + "".join(f"; {note}" for note in report.notes)


def _listed(names: list[str], most: int = 4) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
