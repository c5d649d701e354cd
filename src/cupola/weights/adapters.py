"""LoRA adapters of PEFT, merged into the weights of their base as they are read.

W + scale * B A (arXiv 2106.09685), with scale = alpha / r, or alpha / sqrt(r) for rank-stabilized
adapters. What cannot be merged into a weight is refused by its name in adapter_config.json.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cupola.errors import CheckpointError
from cupola.files import adapters as files
from cupola.weights.reading import read_checkpoint
from cupola.weights.source import Shape, Source

WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
LORA = re.compile(
    r"(?P<module>.+)\.lora_(?P<kind>A|B|embedding_A|embedding_B)(\.default)?(\.weight)?"
)
WRAPPER = "base_model.model."
HEAD = "lm_head.weight"


@dataclass
class LoraPart:
    """One module's factors: A [r, in] and B [out, r]."""

    scale: float
    transposed: bool = False  # the weight is [in, out], as that of an embedding
    factors: dict[str, Tensor] = field(default_factory=dict)

    def delta(self) -> Tensor:
        """What is added to the module's weight, in float32."""
        product = self.factors["B"].float() @ self.factors["A"].float()
        return (product.T if self.transposed else product) * self.scale


class AdaptedSource(Source):
    """A base checkpoint with an adapter merged into it, slice by slice."""

    def __init__(self, base: Source, folder: Path) -> None:
        self.base, self.family, self.disagreements = base, base.family, base.disagreements
        self.padded = base.padded
        self.notes = [*base.notes, f"the LoRA adapter of {folder} was merged into the weights"]
        self._parts, self._replaced = _read(folder, base)

    def shapes(self) -> dict[str, Shape]:
        return self.base.shapes() | {k: tuple(v.shape) for k, v in self._replaced.items()}

    def read(self, key: str, dim: int, start: int, stop: int) -> Tensor:
        if key in self._replaced:
            found = self._replaced[key].narrow(dim, start, stop - start)
        else:
            found = self.base.read(key, dim, start, stop)
        if key not in self._parts:
            return found
        delta = self._parts[key].delta().narrow(dim, start, stop - start)
        return (found.float() + delta).to(found.dtype)


def weights_of(folder: Path) -> Path:
    """The file with an adapter's tensors; CheckpointError if there is none."""
    path = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        raise CheckpointError(f"{folder}: contains no {' or '.join(WEIGHTS)}")
    return path


def _read(folder: Path, base: Source) -> tuple[dict[str, LoraPart], dict[str, Tensor]]:
    """The factors by our name of the weight, and the tensors that replace the base's."""
    config = files.read_adapter_config(folder)
    path = weights_of(folder)
    parts: dict[str, LoraPart] = {}
    replaced: dict[str, Tensor] = {}
    shapes = base.shapes()
    state = read_checkpoint(path)
    head = state.get(f"{WRAPPER}{HEAD}")  # saved, equal to the embedding, after adding tokens
    for key, tensor in state.items():
        bare = key.removeprefix(WRAPPER)
        match = LORA.fullmatch(bare)
        theirs = f"{match['module']}.weight" if match else bare.replace(".modules_to_save", "")
        theirs = theirs.replace(".base_layer", "").replace(".default.", ".")
        ours = base.family.our_key(theirs)
        if ours is None:
            continue  # the tied head once more
        if ours not in shapes:
            raise CheckpointError(f"{path}: {key} belongs to no weight of the base model")
        is_tied = ours == base.family.embedding and HEAD not in shapes
        if is_tied and (match or head is None or not torch.equal(tensor, head)):
            raise CheckpointError(
                f"{path}: {key} adapts the embedding alone, and this model's head is the same "
                "matrix; untie them and merge the adapter into its base with PEFT"
            )
        if match is None:
            replaced[ours] = tensor
            continue
        part = parts.setdefault(ours, _new_part(config, match["module"], match["kind"]))
        part.factors[match["kind"][-1]] = tensor
    for name, part in parts.items():
        _check(part, name, shapes[name], path)
    for name, tensor in replaced.items():
        if tuple(tensor.shape) != shapes[name] and base.family.embedding != name:
            raise CheckpointError(
                f"{path}: {name} is {tuple(tensor.shape)}, and {shapes[name]} in the base model"
            )
    return parts, replaced


def _new_part(config: Mapping[str, Any], module: str, kind: str) -> LoraPart:
    rank = for_module(config.get("rank_pattern"), module, config.get("r", 8))
    alpha = for_module(config.get("alpha_pattern"), module, config.get("lora_alpha", 8))
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return LoraPart(scale, transposed="embedding" in kind or bool(config.get("fan_in_fan_out")))


def for_module(patterns: Any, module: str, default: float) -> float:
    """The value for a module: patterns match the end of its name at a dot, as PEFT does."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return float(value)
    return float(default)


def _check(part: LoraPart, name: str, shape: Shape, path: Path) -> None:
    if set(part.factors) != {"A", "B"}:
        raise CheckpointError(f"{path}: {name} has only one of its two LoRA factors")
    a, b = part.factors["A"], part.factors["B"]
    if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
        raise CheckpointError(f"{path}: the LoRA factors of {name} are {a.shape} and {b.shape}")
    found = (b.shape[0], a.shape[1])
    if (found[::-1] if part.transposed else found) != shape:
        raise CheckpointError(f"{path}: the LoRA of {name} is for {found}, and it is {shape}")
    if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        raise CheckpointError(f"{path}: the LoRA factors of {name} are not finite")
