"""load_weights: a checkpoint in any known dialect -> a model."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from cupola.errors import CheckpointError, did_you_mean
from cupola.weights.cleaning import (
    without_averages,
    without_positions,
    without_prefixes,
    without_training_keys,
)
from cupola.weights.dialects import DIALECTS, Dialect
from cupola.weights.dialects.mmdet_early import offsets_to_ours
from cupola.weights.families import FAMILIES
from cupola.weights.origins import origins
from cupola.weights.quantized import refuse_quantized
from cupola.weights.reading import read_checkpoint
from cupola.weights.sources import is_assembled, open_source

NATIVE = "cupola"
logger = logging.getLogger("cupola")


@dataclass(frozen=True)
class LoadReport:
    """What a load did: the dialect, how many tensors went in, and what did not fit."""

    dialect: str
    loaded: int
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    reshaped: list[str] = field(default_factory=list)  # "KEY (81, 256) -> (4, 256)", not loaded
    notes: list[str] = field(default_factory=list)  # what was removed before the keys were read
    origins: dict[str, str] = field(
        default_factory=dict
    )  # our key -> the checkpoint's, if it is one

    def __str__(self) -> str:
        text = f"{self.loaded} tensors loaded, dialect {self.dialect}"
        if self.reshaped:
            text += f"; newly initialized, from another shape: {_shortened(self.reshaped)}"
        if self.missing:
            text += f"; missing: {_shortened(self.missing)}"
        if self.unexpected:
            text += f"; not used: {_shortened(self.unexpected)}"
        text += "".join(f"; {note}" for note in self.notes)
        return text


def _shortened(names: list[str], most: int = 6) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def load_weights(
    model: Any,
    source: str | Path | Mapping[str, Tensor],
    dialect: str | None = None,
    strict: bool = True,
    assign: bool = False,
    partial: bool = False,
    fitting: bool = False,
) -> LoadReport:
    """Loads a checkpoint into a model, which is not changed if the checkpoint does not fit.

    The dialect is recognized by the keys unless it is named. With `strict`, missing and unexpected
    keys are errors; a wrong shape always is. With `partial`, the checkpoint of a model that this
    one extends (fcos3d) may fill only a part, as when a training starts from it. With `fitting`,
    every tensor that the model has in the same shape is loaded and the report lists the others, as
    when a model is fine-tuned on other classes. With `assign` the model takes the checkpoint's own
    tensors, in its parameters' types, instead of copying them, for models built without data.
    Raises CheckpointError, also if nothing fits.
    """
    own = model.state_dict()
    state, notes = (dict(source), []) if isinstance(source, Mapping) else _read(source, model, own)
    where = "state dict" if isinstance(source, Mapping) else str(source)
    refuse_quantized(state, where)
    raw = state
    found, state, removed = _understood(raw, own, dialect, where)
    notes += removed
    for note in notes:
        logger.warning("%s: %s", where, note)
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own]
    reshaped = [key for key in own if key in state and state[key].shape != own[key].shape]
    problems = [] if fitting else [_shapes(key, state, own) for key in reshaped]
    if strict and not fitting and not (partial and found in DIALECTS and DIALECTS[found].partial):
        problems += [f"missing: {key}{did_you_mean(key, unexpected)}" for key in missing]
        problems += [f"not in the model: {key}" for key in unexpected]
    if problems:
        listed = "\n  ".join(problems[:12])
        more = f"\n  and {len(problems) - 12} more" if len(problems) > 12 else ""
        raise CheckpointError(
            f"{where} (dialect {found}) does not fit the model:\n  {listed}{more}"
        )
    chosen = {key: value for key, value in state.items() if key in own and key not in reshaped}
    if not chosen:
        raise CheckpointError(f"{where} (dialect {found}): no tensor of it fits the model")
    if assign:
        chosen = {key: value.to(own[key].dtype) for key, value in chosen.items()}
    model.load_state_dict(chosen, strict=False, assign=assign)
    shapes = [f"{key} {tuple(state[key].shape)} -> {tuple(own[key].shape)}" for key in reshaped]
    came_from = origins(raw, {key: state[key] for key in own if key in state})
    return LoadReport(found, len(chosen), missing, unexpected, shapes, notes, came_from)


def _read(
    source: str | Path, model: Any, own: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a file or folder, put together where ranks hold their parts; and notes."""
    if not is_assembled(Path(source)):
        return read_checkpoint(source), []
    opened = open_source(source, heads=getattr(getattr(model, "settings", None), "n_head", None))
    state = {}
    for key in opened.shapes():
        rows = own[key].shape[0] if key in own and own[key].ndim else None
        padded = opened.padded and opened.family.is_vocabulary(key)
        state[key] = opened.whole(key)[: rows if padded else None]
    return state, list(opened.notes)


def _shapes(key: str, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    theirs, mine = tuple(state[key].shape), tuple(own[key].shape)
    return f"{key}: shape {theirs} in the checkpoint, {mine} wanted"


def _understood(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], dialect: str | None, where: str
) -> tuple[str, dict[str, Tensor], list[str]]:
    """The state dict under our names, after removing what training tools added to it."""
    state, notes = without_averages(without_positions(state, own))
    if any(family.embedding in own for family in FAMILIES):
        names, heads = without_training_keys(state)
        state, notes = {name: state[key] for name, key in names.items()}, notes + heads
    for cleaned, removed in without_prefixes(state):
        if dialect is not None or _is_known(cleaned, own):
            found, ours = translate(cleaned, own, dialect, where)
            if ours.keys() & own.keys():
                return found, ours, notes + removed
    return *translate(state, own, dialect, where), notes


def _is_known(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> bool:
    return bool(own.keys() & state.keys()) or any(
        each.speaks(state, own) for each in DIALECTS.values()
    )


def translate(
    state: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    dialect: str | None = None,
    where: str = "state dict",
) -> tuple[str, dict[str, Tensor]]:
    """Renames a foreign state dict to the keys of `own`; returns the dialect's name with it."""
    state = offsets_to_ours(state, own)
    if dialect is None and own.keys() & state.keys() and set(state) <= set(own):
        return _own_or_closer(state, own)
    chosen = _choose(state, own, dialect, where)
    if chosen is None:
        return NATIVE, dict(state)
    return chosen.name, chosen.to_ours(state, own)


def _own_or_closer(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> tuple[str, dict[str, Tensor]]:
    """A state whose keys are all ours: ours, unless a dialect fills more of the model with it.

    physicsnemo's AFNO has our keys without the norm that its dialect adds.
    """
    filled = len(state)
    if filled < len(own):
        for each in DIALECTS.values():
            if each.speaks(state, own) and not each.partial:
                translated = each.to_ours(state, own)
                if len(translated.keys() & own.keys()) > filled:
                    return each.name, translated
    return NATIVE, dict(state)


def _choose(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], name: str | None, where: str
) -> Dialect | None:
    if name == NATIVE:
        return None
    if name is not None:
        if name not in DIALECTS:
            hint = did_you_mean(name, DIALECTS)
            raise CheckpointError(f"dialect {name!r} is not one of {sorted(DIALECTS)}{hint}")
        return DIALECTS[name]
    fitting = [each for each in DIALECTS.values() if each.speaks(state, own)]
    if fitting:
        return fitting[0]
    if own.keys() & state.keys():
        return None
    sample = ", ".join(list(state)[:3])
    raise CheckpointError(
        f"{where}: its keys ({sample}, ...) belong to no dialect that is known for this "
        f"model; name one of {sorted(DIALECTS)} if you know which it is"
    )
