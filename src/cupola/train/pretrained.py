"""`init_cfg=dict(type="Pretrained", checkpoint=...)`: initial weights of a part of the model."""

from collections.abc import Mapping
from typing import Any

from cupola import nn
from cupola.bundles.downloads import find_checkpoint
from cupola.errors import BuildError, BundleError, CheckpointError
from cupola.registry import bare_type
from cupola.train.checkpoints import training_state
from cupola.weights import LoadReport, load_weights, read_checkpoint


def load_pretrained(model: nn.Module, required: bool = True) -> list[str]:
    """Loads what each module's `init_cfg` of type Pretrained names; returns a line for each.

    A checkpoint is a file, a repository on the hub (hf://ORG/NAME), or a URL or a name such as
    torchvision://resnet50, which is downloaded if it is not in torch's cache. `prefix` chooses the
    entries below it. Every tensor that has the module's shape is loaded. What cannot be downloaded
    is not an error, but one of the lines. With `required` False, as for a run that has a load_from,
    nothing is downloaded, and only what was loaded is said.

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
        return _load(module, cfg, where, offline=not required)
    except CheckpointError:
        if required:
            raise
        return False, ""


def _load(module: nn.Module, cfg: Mapping[str, Any], where: str, offline: bool) -> tuple[bool, str]:
    checkpoint, prefix = cfg.get("checkpoint"), cfg.get("prefix")
    if not isinstance(checkpoint, str) or not checkpoint:
        raise BuildError(f"{where}: checkpoint is {checkpoint!r:.60}; expected a path or a name")
    try:
        path = find_checkpoint(checkpoint, offline)
    except (BundleError, CheckpointError) as error:
        return False, f"{where} is not loaded, and the weights stay random: {error}"
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
