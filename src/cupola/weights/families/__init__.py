"""The families of language models: how each one's checkpoints are named, split and laid out."""

from collections.abc import Collection

from cupola.errors import CheckpointError
from cupola.weights.families.bloom import BLOOM
from cupola.weights.families.family import LanguageFamily
from cupola.weights.families.llama import LLAMA

FAMILIES = (BLOOM, LLAMA)


def family_of(keys: Collection[str], where: str) -> LanguageFamily:
    """The family of a checkpoint, by its keys in any spelling; `where` is named in the error."""
    for family in FAMILIES:
        if family.owns(keys):
            return family
    sample = ", ".join(list(keys)[:3])
    names = [family.name for family in FAMILIES]
    raise CheckpointError(
        f"{where}: its keys ({sample}, ...) belong to no language model that can be split: {names}"
    )


__all__ = ["FAMILIES", "LanguageFamily", "family_of"]
