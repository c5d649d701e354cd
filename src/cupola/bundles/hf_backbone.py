"""The backbone of a transformers model: its own ResNet or Swin, or a ResNet of timm by name."""

import re
from typing import Any

from cupola.bundles.hf_config import HFConfig

TIMM = re.compile(r"(?:timm/)?resnet(18|34|50|101|152)(?:\.[\w.]+)?")
NAMED = re.compile(r"(?:.*/)?resnet-(18|34|50|101|152)")
FROZEN: dict[str, Any] = {
    "type": "ResNet",
    "frozen_stages": 1,
    "norm_cfg": {"type": "BN", "requires_grad": False},
    "norm_eval": True,
}


def backbone(config: HFConfig) -> tuple[dict[str, Any], list[int]]:
    """The Swin of `backbone_config`, else a ResNet: our config, and the channels of its maps."""
    about = config.object("backbone_config")
    if about is None or about.get("model_type") not in ("swin", "maskformer-swin"):
        return resnet(config)
    return _swin(about)


def _swin(config: HFConfig) -> tuple[dict[str, Any], list[int]]:
    config.only("hidden_act", "gelu")
    depths = config.wholes("depths", [2, 2, 6, 2], most=1000)
    heads = config.wholes("num_heads", [3, 6, 12, 24], most=1000)
    dims, patch = config.whole("embed_dim", 96), config.whole("patch_size", 4, 64)
    stages = _used_stages(config, len(depths))
    found = {
        "type": "SwinTransformer",
        "pretrain_img_size": config.whole("image_size", 224),
        "in_channels": config.whole("num_channels", 3),
        "embed_dims": dims,
        "patch_size": patch,
        "window_size": config.whole("window_size", 7, 1000),
        "mlp_ratio": config.number("mlp_ratio", 4.0),
        "depths": depths,
        "num_heads": heads,
        "strides": [patch, *[2] * (len(depths) - 1)],
        "out_indices": stages,
        "qkv_bias": bool(config.get("qkv_bias", True)),
        "drop_path_rate": config.number("drop_path_rate", 0.1),
        "use_abs_pos_embed": bool(config.get("use_absolute_embeddings", False)),
    }
    return found, [dims * 2**i for i in stages]


def resnet(config: HFConfig) -> tuple[dict[str, Any], list[int]]:
    """Our backbone's config, and the channels of the maps that it returns."""
    about = config.object("backbone_config")
    if about is not None and about.get("model_type") == "timm_backbone":
        dilated = about.get("output_stride", 32) == 16
        return _timm(about, about.get("backbone", "resnet50"), dilated, about)
    if about is not None:
        return _own(about)
    if config.get("use_timm_backbone", True):
        settings = config.object("backbone_kwargs") or HFConfig({}, config.path)
        name = config.get("backbone", "resnet50")
        return _timm(config, name, bool(config.get("dilation", False)), settings)
    found = NAMED.fullmatch(str(config.get("backbone", "resnet-50")))
    if found is None:
        raise config.error(f"backbone {config.get('backbone')!r:.60}: only ResNets are supported")
    return _standard(int(found[1]), 3, [3])


def _timm(
    config: HFConfig, name: Any, dilated: bool, settings: HFConfig
) -> tuple[dict[str, Any], list[int]]:
    found = TIMM.fullmatch(str(name))
    if found is None:
        raise config.error(
            f"backbone {name!r:.60}: of timm's models, only resnet18, 34, 50, 101 and 152 are "
            "supported"
        )
    in_channels = settings.whole("num_channels", settings.whole("in_chans", 3))
    indices = settings.wholes("out_indices", [1, 2, 3, 4], most=4)
    backbone, channels = _standard(int(found[1]), in_channels, [i - 1 for i in indices])
    stages = max(indices)  # timm drops the stages behind the last one that is used
    strides, dilations = [1, 2, 2, 2], [1, 1, 1, 1]
    if dilated:  # DC5
        strides[3], dilations[3] = 1, 2
        backbone["dilate_first_block"] = False
    backbone |= {
        "num_stages": stages,
        "strides": strides[:stages],
        "dilations": dilations[:stages],
    }
    return backbone, channels


def _standard(depth: int, in_channels: int, stages: list[int]) -> tuple[dict[str, Any], list[int]]:
    expansion = 1 if depth < 50 else 4
    backbone = {**FROZEN, "depth": depth, "in_channels": in_channels, "out_indices": stages}
    return backbone, [64 * 2**i * expansion for i in stages]


def _own(config: HFConfig) -> tuple[dict[str, Any], list[int]]:
    """A backbone of transformers' own ResNetConfig."""
    config.only("model_type", "resnet")
    config.only("hidden_act", "relu")
    kind = config.get("layer_type", "bottleneck")
    if kind not in ("basic", "bottleneck"):
        raise config.error(f"layer_type {kind!r:.60}: expected 'basic' or 'bottleneck'")
    widths = config.wholes("hidden_sizes", [256, 512, 1024, 2048])
    blocks = config.wholes("depths", [3, 4, 6, 3], most=1000)
    if len(widths) != len(blocks):
        raise config.error(f"hidden_sizes has {len(widths)} stages, depths {len(blocks)}")
    first = 2 if config.get("downsample_in_first_stage", False) else 1
    stages = _used_stages(config, len(blocks))
    backbone = {
        **FROZEN,
        "depth": 18 if kind == "basic" else 50,
        "in_channels": config.whole("num_channels", 3),
        "stem_channels": config.whole("embedding_size", 64),
        "num_stages": len(blocks),
        "strides": [first, *[2] * (len(blocks) - 1)],
        "dilations": [1] * len(blocks),
        "stage_blocks": blocks,
        "stage_widths": widths,
        "out_indices": stages,
        "style": "caffe" if config.get("downsample_in_bottleneck", False) else "pytorch",
    }
    return backbone, [widths[i] for i in stages]


def _used_stages(config: HFConfig, count: int) -> list[int]:
    """The stages whose maps are returned, counted from 0; the last one by default."""
    names = config.get("out_features")
    if names is None:
        indices = config.get("out_indices", [count])
        found = [i % (count + 1) for i in indices if isinstance(i, int)]
    else:
        found = [
            int(str(name).removeprefix("stage") or 0)
            for name in names
            if str(name).removeprefix("stage").isdigit()
        ]
    if not found or not all(1 <= i <= count for i in found):
        given = names if names is not None else config.get("out_indices")
        raise config.error(f"out_features or out_indices {given!r:.60}: expected stages 1..{count}")
    return [i - 1 for i in found]
