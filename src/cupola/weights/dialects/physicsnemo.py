"""nvidia-physicsnemo's AFNO: our names, a `device_buffer`, and no final norm."""

from cupola.weights.dialects.base import Dialect, State, StateView
from cupola.weights.dialects.fourcastnet import UNUSED, bare, is_operator, settle_unused_norm

# An empty tensor by which physicsnemo's modules knew their device before version 2.
BUFFER = "device_buffer"


def _speaks(state: StateView, own: StateView) -> bool:
    names = bare(state)
    norms = [key for key in UNUSED if key in names]
    marked = any(key.endswith(BUFFER) for key in names)
    return is_operator(own) and "head.weight" in names and (marked or not norms)


def _to_ours(state: StateView, own: StateView) -> State:
    named = {key: value for key, value in bare(state).items() if not key.endswith(BUFFER)}
    return settle_unused_norm(named, own)


def _to_theirs(state: StateView) -> State:
    return {key: value for key, value in state.items() if key not in UNUSED}


PHYSICSNEMO = Dialect("physicsnemo", _speaks, _to_ours, _to_theirs)
