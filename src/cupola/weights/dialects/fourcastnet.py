"""FourCastNet's checkpoints: our own names under "module.", and an unused entry "ged".

Published backbone.ckpt and precip.ckpt are {"iters", "epoch", "model_state",
"optimizer_state_dict"}; the reader has already taken model_state out. Their keys carry the prefix
of DistributedDataParallel, and `ged` is left over from an experiment (inference.py skips it too).
"""

from cupola.weights.dialects.base import Dialect, State, StateView

PREFIX = "module."

# A norm that FourCastNet stores and never uses, and that physicsnemo leaves out.
UNUSED = tuple(f"{part}norm.{name}" for part in ("", "backbone.") for name in ("weight", "bias"))


def is_operator(own: StateView) -> bool:
    """Whether a model's state belongs to an AFNO that maps fields to fields."""
    return any(key.endswith("blocks.0.filter.w1") for key in own) and "head.bias" not in own


def bare(state: StateView) -> State:
    """The state without the prefix of DistributedDataParallel."""
    return {key.removeprefix(PREFIX): value for key, value in state.items()}


def settle_unused_norm(state: StateView, own: StateView) -> State:
    """The state with the unused norm if the model has one, without it otherwise."""
    kept = {key: value for key, value in state.items() if key in own or key not in UNUSED}
    return {key: own[key] for key in UNUSED if key in own} | kept


def _to_ours(state: StateView, own: StateView) -> State:
    named = {key: value for key, value in bare(state).items() if key != "ged"}
    return settle_unused_norm(named, own)


def _to_theirs(state: StateView) -> State:
    return {PREFIX + key: value for key, value in state.items()}


FOURCASTNET = Dialect(
    "fourcastnet",
    lambda state, own: (
        is_operator(own) and any(key.startswith(PREFIX) or key == "ged" for key in state)
    ),
    _to_ours,
    _to_theirs,
)
