"""Names that the checkpoints of DETR and its relatives share in Hugging Face transformers."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

State = dict[str, Tensor]


def modern_name(key: str) -> str:
    """The key as transformers 5 names it in memory; files have the names of 4.x."""
    key = key.replace("backbone.conv_encoder.model.", "backbone.model.")
    key = key.replace("_attn.out_proj.", "_attn.o_proj.")
    return re.sub(r"(layers\.\d+)\.(fc[12])\.", r"\1.mlp.\2.", key)


def join_projections(state: Mapping[str, Tensor]) -> State:
    """q_proj, k_proj, v_proj -> in_proj_weight and in_proj_bias; o_proj -> out_proj."""
    joined: State = {}
    for key, value in state.items():
        attention, _, part = key.rpartition("_attn.")
        if part in ("q_proj.weight", "q_proj.bias"):
            kind = part.removeprefix("q_proj.")
            parts = [state.get(f"{attention}_attn.{p}_proj.{kind}") for p in "qkv"]
            if all(p is not None for p in parts):
                joined[f"{attention}_attn.in_proj_{kind}"] = torch.cat(
                    [p for p in parts if p is not None]
                )
        elif part.startswith("o_proj."):
            joined[f"{attention}_attn.out_proj.{part.removeprefix('o_proj.')}"] = value
        elif not part.startswith(("k_proj.", "v_proj.")):
            joined[key] = value
    return joined


def resnet_name(key: str) -> str:
    """HF's own ResNet names -> torchvision's; timm's are torchvision's already."""
    key = key.replace("backbone.embedder.embedder.convolution", "backbone.conv1")
    key = key.replace("backbone.embedder.embedder.normalization", "backbone.bn1")
    found = re.match(
        r"backbone\.encoder\.stages\.(\d+)\.layers\.(\d+)\.(shortcut|layer\.(\d+))"
        r"\.(convolution|normalization)(.*)",
        key,
    )
    if not found:
        return key
    stage, block, where, number, kind, rest = found.groups()
    if where == "shortcut":
        name = f"downsample.{int(kind == 'normalization')}"
    else:
        name = f"{'conv' if kind == 'convolution' else 'bn'}{int(number) + 1}"
    return f"backbone.layer{int(stage) + 1}.{block}.{name}{rest}"


def split_projections(state: Mapping[str, Tensor]) -> State:
    """The inverse of `join_projections`."""
    split: State = {}
    for key, value in state.items():
        attention, _, part = key.rpartition("_attn.")
        if part.startswith("in_proj_"):
            for name, chunk in zip("qkv", value.chunk(3), strict=True):
                split[f"{attention}_attn.{name}_proj.{part.removeprefix('in_proj_')}"] = chunk
        else:
            split[key.replace("_attn.out_proj.", "_attn.o_proj.")] = value
    return split
