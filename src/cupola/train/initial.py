"""`load_from`: the initial weights of a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cupola import nn
from cupola.errors import CheckpointError
from cupola.train.checkpoints import load_checkpoint
from cupola.weights import load_weights


def _is_training_checkpoint(path: Path) -> bool:
    if path.suffix not in (".pth", ".pt"):
        return False
    try:
        load_checkpoint(path)
    except CheckpointError:
        return False
    return True


def load_initial_weights(model: nn.Module, load_from: str | Mapping[str, Any]) -> str:
    """Loads initial weights into `model` and returns a one-line summary.

    A string is the path of a checkpoint in any known dialect, either of the whole model or of the
    one that published trainings of this model start from (FCOS3D for DETR3D). A dict(path=...,
    prefix="backbone") loads only the entries below the prefix from a training checkpoint of Cupola;
    a dict(path=..., into="wind") loads the whole of such a checkpoint below the prefix.

    Raises CheckpointError if a file or a whole prefix is missing, or a shape differs.
    """
    cfg = {"path": load_from} if isinstance(load_from, str) else dict(load_from)
    path = Path(cfg["path"])
    if not _is_training_checkpoint(path):
        return str(load_weights(model, path, partial=True))
    state = load_checkpoint(path)["model"]
    prefix = cfg.get("prefix", "")
    if "into" in cfg:
        prefix = cfg["into"]
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
