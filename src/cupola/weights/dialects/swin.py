"""Checkpoints of microsoft/Swin-Transformer and of transformers' Swin, for SwinTransformer.

The model is the backbone itself or has one. MMDetection's PatchMerging reads the four patches in
another order than theirs, and a table of another window size is resized, as it does.
"""

import math
import re

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola.weights.dialects.base import Dialect, State, StateView
from cupola.weights.renaming import Renaming

MICROSOFT = Renaming(
    [
        ("patch_embed.projection", "patch_embed.proj"),
        ("stages.#.blocks.#.attn.w_msa", "layers.#.blocks.#.attn"),
        ("stages.#.blocks.#.ffn.layers.0.0", "layers.#.blocks.#.mlp.fc1"),
        ("stages.#.blocks.#.ffn.layers.1", "layers.#.blocks.#.mlp.fc2"),
        ("stages", "layers"),
    ]
)
HF = Renaming(
    [
        ("patch_embed.projection", "embeddings.patch_embeddings.projection"),
        ("patch_embed.norm", "embeddings.norm"),
        ("absolute_pos_embed", "embeddings.position_embeddings"),
        *[
            (f"stages.#.blocks.#.{ours}", f"encoder.layers.#.blocks.#.{theirs}")
            for ours, theirs in {
                "norm1": "layernorm_before",
                "attn.w_msa.proj": "attention.o_proj",
                "attn.w_msa": "attention",
                "norm2": "layernorm_after",
                "ffn.layers.0.0": "mlp.fc1",
                "ffn.layers.1": "mlp.fc2",
            }.items()
        ],
        ("stages", "encoder.layers"),
        ("norm#", "hidden_states_norms.#"),
    ]
)
# transformers 4, and its MaskFormerSwin still -> transformers 5.
HF_5 = (
    ("attention.self.query.", "attention.q_proj."),
    ("attention.self.key.", "attention.k_proj."),
    ("attention.self.value.", "attention.v_proj."),
    ("attention.self.", "attention."),
    ("attention.relative_position_bias.", "attention."),
    ("attention.output.dense.", "attention.o_proj."),
    ("intermediate.dense.", "mlp.fc1."),
    ("output.dense.", "mlp.fc2."),
)
# The classifier, and the masks of shifted windows for images of one size.
LEFT_ASIDE = re.compile(r"(^|\.)(head|norm|layers\.\d+\.blocks\.\d+\.attn_mask)(\.(weight|bias))?$")
MERGING = re.compile(r"downsample\.(reduction|norm)\.(weight|bias)$")


def _speaks(state: StateView, own: StateView) -> bool:
    return _prefix(state, "patch_embed.proj.weight") is not None and (
        _prefix(own, "patch_embed.projection.weight") is not None
    )


def _prefix(state: StateView, name: str) -> str | None:
    """What precedes `name` in the key that ends with it; None if no key does."""
    found = [key for key in state if key == name or key.endswith("." + name)]
    return found[0].removesuffix(name) if found else None


def _to_ours(state: StateView, own: StateView) -> State:
    theirs = _prefix(state, "patch_embed.proj.weight") or ""
    ours = _prefix(own, "patch_embed.projection.weight") or ""
    renamed: State = {}
    for key, value in state.items():
        name = key.removeprefix(theirs)
        if not key.startswith(theirs):
            renamed[key] = value
        elif not LEFT_ASIDE.search(name):
            renamed[ours + (MICROSOFT.to_ours(name) or name)] = value
    return fit_windows({k: reorder_merging(k, value) for k, value in renamed.items()}, own)


def reorder_merging(key: str, value: Tensor) -> Tensor:
    """Weights of a PatchMerging, [..., 4 * C], from the original's order of inputs to ours.

    There the patches come first, column by column; here the channels, and patches row by row.
    Other tensors are returned as they are.
    """
    if not MERGING.search(key):
        return value
    patches = torch.unflatten(value, -1, (4, -1))[..., [0, 2, 1, 3], :]  # [..., 4, C]
    return patches.transpose(-1, -2).flatten(-2)


def fit_windows(state: State, own: StateView) -> State:
    """Bias tables resized to the model's windows; their indices are the model's own."""
    fitted = dict(state)
    for key, mine in own.items():
        if key.endswith("relative_position_index"):
            fitted[key] = mine
        elif key.endswith("relative_position_bias_table") and key in state:
            fitted[key] = _resized(state[key], mine)
    return fitted


def _resized(table: Tensor, own: Tensor) -> Tensor:
    """[(2 S - 1)^2, M] of windows of S cells -> the size of `own`, bicubic."""
    if table.shape == own.shape or table.shape[-1:] != own.shape[-1:]:
        return table  # a wrong number of heads is reported by the loader
    side, wanted = math.isqrt(len(table)), math.isqrt(len(own))
    maps = table.T.reshape(1, -1, side, side)
    return F.interpolate(maps, size=(wanted, wanted), mode="bicubic")[0].flatten(1).T.contiguous()


def swin_of_hf(state: StateView) -> State:
    """A Swin of transformers, without the prefix of its keys -> our keys, none left out."""
    modern = {_hf_5(key): value for key, value in state.items()}
    joined: State = {}
    for name, value in modern.items():
        block, _, part = name.rpartition("attention.q_proj.")
        if block:
            joined[f"{block}attention.qkv.{part}"] = torch.cat(
                [modern[f"{block}attention.{each}_proj.{part}"] for each in "qkv"]
            )
        elif not re.search(r"attention\.[kv]_proj\.", name):
            joined[name] = value
    renamed = {HF.to_ours(key) or key: value for key, value in joined.items()}
    return {key: reorder_merging(key, value) for key, value in renamed.items()}


def _hf_5(key: str) -> str:
    for old, new in HF_5:
        key = key.replace(old, new)
    stage = re.search(r"hidden_states_norms\.stage(\d+)", key)
    if stage:
        key = key.replace(stage[0], f"hidden_states_norms.{int(stage[1]) - 1}")
    return key.removeprefix("swin.")


def _speaks_hf(state: StateView, own: StateView) -> bool:
    return (
        "embeddings.patch_embeddings.projection.weight"
        in {key.removeprefix("swin.") for key in state}
        and _prefix(own, "patch_embed.projection.weight") is not None
    )


def _from_hf(state: StateView, own: StateView) -> State:
    ours = _prefix(own, "patch_embed.projection.weight") or ""
    renamed = {ours + key: value for key, value in swin_of_hf(state).items()}
    left_aside = re.compile(re.escape(ours) + r"(layernorm|pooler|classifier)\.")
    kept = {key: value for key, value in renamed.items() if not left_aside.match(key)}
    return fit_windows(kept, own)


SWIN_DIALECTS = (
    Dialect("swin", _speaks, _to_ours, partial=True),
    Dialect("swin_hf", _speaks_hf, _from_hf, partial=True),
)
