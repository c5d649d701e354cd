"""LanguageFamily: the description of one family of language models on disk."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from cupola.weights.renaming import Renaming

Order = tuple[str, str, str]


@dataclass(frozen=True)
class FusedRows:
    """Query, key and value in one matrix: the end of its name, and the order of its rows.

    The order names the axes that the rows run over, slowest first: "head", "qkv", "size". With
    "head" first, any run of heads is a run of rows, so that tensor ranks can split it.
    """

    name: str
    order: Order

    def reorder(self, fused: Tensor, found: Order, heads: int) -> Tensor:
        """Rows in the order `found`, with that many heads, in the family's own order."""
        sizes = {"head": heads, "qkv": 3, "size": fused.shape[0] // (3 * heads)}
        rows = fused.view(*(sizes[axis] for axis in found), *fused.shape[1:])
        axes = [found.index(axis) for axis in self.order]
        return rows.permute(*axes, *range(3, rows.ndim)).reshape(fused.shape)


@dataclass(frozen=True)
class LanguageFamily:
    """Names of parameters here and in transformers, and what tensor ranks split.

    `names` maps the names below `prefix`, which checkpoints of the bare trunk leave out.
    `embedding` is our name of the input embedding. `split` are pairs of a pattern that our name
    ends in and the dimension; all other parameters are whole on every rank. `unused` is a pattern
    of transformers' names for which the model has no parameter.
    """

    name: str
    prefix: str
    names: Renaming
    embedding: str
    split: tuple[tuple[str, int], ...]
    fused: FusedRows | None = None
    unused: str = r"(?!)"  # matches nothing

    def our_key(self, key: str) -> str | None:
        """Our name of a parameter in either spelling; None if we do not store it.

        An unknown name stays as it is, so that the loader can report it.
        """
        if re.search(self.unused, key):
            return None
        known = self.names.to_ours(key.removeprefix(self.prefix))
        return self.prefix + known if known else key

    def their_key(self, key: str) -> str:
        """transformers' name of our parameter."""
        known = self.names.to_theirs(key.removeprefix(self.prefix))
        return self.prefix + known if known else key

    def split_dim(self, our_key: str) -> int | None:
        """The dimension along which tensor ranks split a parameter; None if each holds it whole."""
        for pattern, dim in self.split:
            if re.search(rf"(?:{pattern})$", our_key):
                return dim
        return None

    def is_vocabulary(self, our_key: str) -> bool:
        """Whether the rows of a parameter are the vocabulary's tokens."""
        return our_key in (self.embedding, "lm_head.weight")

    def owns(self, keys: Iterable[str]) -> bool:
        """Whether these are keys of the family, in either spelling."""
        return any(self.our_key(key) == self.embedding for key in keys)
