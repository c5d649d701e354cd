"""Language models as transformers names their parameters, one dialect for each family."""

from cupola.weights.dialects.base import Dialect, State, StateView
from cupola.weights.families import FAMILIES, LanguageFamily

HEAD = "lm_head.weight"


def _dialect(family: LanguageFamily) -> Dialect:
    def to_ours(state: StateView, own: StateView) -> State:
        pairs = ((family.our_key(key), tensor) for key, tensor in state.items())
        named = {key: tensor for key, tensor in pairs if key is not None}
        if HEAD not in own:  # tied: it is the embedding once more
            named.pop(HEAD, None)
        return named

    def to_theirs(state: StateView) -> State:
        return {family.their_key(key): tensor for key, tensor in state.items()}

    return Dialect(
        f"{family.name}_hf",
        lambda state, own: family.embedding in own and family.owns(state),
        to_ours,
        to_theirs,
    )


LANGUAGE_DIALECTS = tuple(_dialect(family) for family in FAMILIES)
