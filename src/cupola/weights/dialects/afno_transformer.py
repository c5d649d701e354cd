"""AFNO-transformer's image classifiers: our names, sometimes under "module."."""

from cupola.weights.dialects.base import Dialect, State, StateView
from cupola.weights.dialects.fourcastnet import bare


def _is_classifier(own: StateView) -> bool:
    return "blocks.0.filter.w1" in own and "head.bias" in own


def _to_ours(state: StateView, own: StateView) -> State:
    return bare(state)


AFNO_TRANSFORMER = Dialect(
    "afno-transformer",
    lambda state, own: _is_classifier(own) and "blocks.0.filter.w1" in bare(state),
    _to_ours,
    dict,
)
