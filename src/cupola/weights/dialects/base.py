"""What a dialect is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

State = dict[str, Tensor]
StateView = Mapping[str, Tensor]


@dataclass(frozen=True)
class Dialect:
    """A foreign spelling of one model family's checkpoints.

    speaks(state, own): do these keys look like it, and does the model (`own`, its state dict)
    belong to the family?
    to_ours(state, own): the state under the model's own keys; keys that nobody knows keep their
    name, so that the loader can report them.
    to_theirs(state): the inverse, for `cupola convert`; None where we do not write it.
    partial: an ancestor's checkpoint, from which a training may start: it fills only a part of the
    model, and holds parts that the model does not have.
    """

    name: str
    speaks: Callable[[StateView, StateView], bool]
    to_ours: Callable[[StateView, StateView], State]
    to_theirs: Callable[[StateView], State] | None = None
    partial: bool = False
