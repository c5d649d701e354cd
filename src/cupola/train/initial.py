"""`load_from`: weights to start a run with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cupola import nn
from cupola.errors import CheckpointError
from cupola.train.checkpoints import load_checkpoint
from cupola.weights import load_weights


def _is_ours(path: Path) -> bool:
    if path.suffix not in (".pth", ".pt"):
        return False
    try:
        load_checkpoint(path)
    except CheckpointError:
        return False
    return True


def load_initial_weights(model: nn.Module, load_from: str | Mapping[str, Any]) -> str:
    """Fills `model` from `load_from` and says in one line what was taken.

    A string is a path to a checkpoint of any known dialect for the whole model, or of one from
    which the published trainings of this model start (FCOS3D for DETR3D). A dict(path=...,
    prefix="backbone") takes only the entries below the prefix, from a checkpoint of a run of ours
    (its moving average where it has one); a dict(path=..., into="wind") puts the whole of such a
    checkpoint below the prefix.

    Raises CheckpointError when a file or a whole prefix is missing, or a shape differs.
    """
    cfg = {"path": load_from} if isinstance(load_from, str) else dict(load_from)
    path = Path(cfg["path"])
    if not _is_ours(path):
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
                f"the model wants {tuple(mine[name].shape)}"
            )
    model.load_state_dict({**mine, **chosen})
    return f"took {len(chosen)} of {len(mine)} tensors from {path}"
