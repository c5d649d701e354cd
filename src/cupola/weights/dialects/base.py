"""Dialect: the spelling of another project's checkpoints."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

State = dict[str, Tensor]
StateView = Mapping[str, Tensor]


@dataclass(frozen=True)
class Dialect:
    """A foreign spelling of one model family's checkpoints.

    speaks(state, own): whether these keys look like it, and the model (`own` is its state dict)
    belongs to the family.
    to_ours(state, own): the state under the model's own keys; unknown keys keep their name, so that
    the loader can report them.
    to_theirs(state): the inverse, for `cupola convert`; None if it is not implemented.
    partial: whether it is the checkpoint of a model that this one extends, from which a training
    may start; it fills only a part of the model and has parts that the model does not have.
    """

    name: str
    speaks: Callable[[StateView, StateView], bool]
    to_ours: Callable[[StateView, StateView], State]
    to_theirs: Callable[[StateView], State] | None = None
    partial: bool = False
