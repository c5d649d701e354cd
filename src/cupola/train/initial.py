"""`load_from`: the initial weights of a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from cupola import nn
from cupola.bundles import Bundle, shipped_names
from cupola.bundles.downloads import find_checkpoint
from cupola.errors import BuildError, BundleError, CheckpointError, did_you_mean
from cupola.train.checkpoints import training_state
from cupola.train.pretrained import summary
from cupola.weights import load_weights

KEYS = ("path", "strict", "prefix", "into")


def load_initial_weights(model: nn.Module, load_from: str | Path | Mapping[str, Any]) -> str:
    """Loads initial weights into `model` and returns a one-line summary.

    A string is the path of a checkpoint in any known dialect (or the name of a shipped bundle),
    of the same model or of the one that published trainings of it start from (FCOS3D for DETR3D).
    Every tensor that has the model's shape is loaded; the others, such as the class head of a model
    with other classes, keep their initialization, and the summary names them.

    A dict(path=...) may add strict=True, with which anything that does not fit is an error;
    prefix="backbone", which loads only the entries below the prefix, all of which must be there;
    or into="wind", which loads the whole of a training checkpoint below the prefix.

    Raises CheckpointError if a file or a whole prefix is missing, or nothing fits.
    """
    cfg = dict(load_from) if isinstance(load_from, Mapping) else {"path": load_from}
    cfg.pop("_scope_", None)
    for key in cfg:
        if key not in KEYS:
            raise BuildError(f"load_from: unknown key {key!r}{did_you_mean(str(key), KEYS)}")
    if not isinstance(cfg.get("path"), str | Path):
        raise BuildError(f"load_from: expected a path, got {cfg.get('path')!r:.60}")
    path = find_weights(str(cfg["path"]), "load_from")
    if prefix := cfg.get("into") or cfg.get("prefix"):
        return _load_below(model, path, training_state(path), str(prefix), "into" in cfg)
    return load_fitting(model, path, bool(cfg.get("strict", False)))


def load_fitting(model: nn.Module, path: Path, strict: bool = False) -> str:
    """Loads every tensor of a checkpoint that fits, with `strict` all; returns a summary."""
    state = training_state(path)
    report = load_weights(
        model, path if state is None else state, strict=strict, fitting=not strict
    )
    return summary(report, len(model.state_dict()), str(path))


def find_weights(name: str, where: str) -> Path:
    """The checkpoint that a path, a URL or the name of a shipped bundle refers to.

    `where` is the key of the config, for the CheckpointError.
    """
    if "://" in name:
        try:
            return find_checkpoint(name)
        except (BundleError, CheckpointError) as error:
            raise CheckpointError(
                f"{where}: {error}, or use --set {where}=None to start from random weights"
            ) from None
    path = Path(name)
    if not path.exists() and name in shipped_names():
        return Bundle.load(name).weights_path
    return path


def _load_below(
    model: nn.Module, path: Path, state: dict[str, Tensor] | None, prefix: str, into: bool
) -> str:
    if state is None:
        raise CheckpointError(f"{path}: prefix and into need a training checkpoint of Cupola")
    if into:
        state = {f"{prefix}.{name}": value for name, value in state.items()}
    chosen = {name: value for name, value in state.items() if name.startswith(prefix)}
    mine = model.state_dict()
    unknown = sorted(set(chosen) - set(mine))
    missing = sorted({name for name in mine if name.startswith(prefix)} - set(chosen))
    if not chosen or unknown or missing:
        raise CheckpointError(
            f"{path} does not fit below {prefix!r}: missing {missing[:3]}, unknown {unknown[:3]}"
        )
    for name, value in chosen.items():
        if value.shape != mine[name].shape:
            raise CheckpointError(
                f"{path}: {name} has shape {tuple(value.shape)}, "
                f"the model expects {tuple(mine[name].shape)}"
            )
    model.load_state_dict({**mine, **chosen})
    return f"loaded {len(chosen)} of {len(mine)} tensors from {path}"
