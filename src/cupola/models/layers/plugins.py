"""Plugins: attention layers that configs insert into the blocks of a backbone."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from cupola import nn
from cupola.registry import MODELS

Config = Mapping[str, Any]
POSITIONS = ("after_conv1", "after_conv2", "after_conv3")


def stage_plugins(plugins: Sequence[Config] | None, stage: int) -> tuple[Config, ...]:
    """Those of a backbone's plugins whose `stages` include this one; without `stages`, all do."""
    for plugin in plugins or ():
        if plugin.get("position") not in POSITIONS:
            raise ValueError(f"a plugin's position is one of {POSITIONS}, got {dict(plugin)}")
    return tuple(p for p in plugins or () if p.get("stages") is None or p["stages"][stage])


def add_plugins(
    parent: nn.Module, plugins: Sequence[Config], position: str, channels: int
) -> tuple[str, ...]:
    """Adds the plugins of one position to a block and returns their names.

    A name is that of the plugin's kind and its `postfix`, as in the state keys of the original:
    context_block, gen_attention_block, nonlocal_block (source: mmcv/cnn/bricks/plugin.py).
    """
    names = []
    for plugin in plugins:
        if plugin["position"] != position:
            continue
        settings = dict(plugin["cfg"])
        postfix = settings.pop("postfix", "")
        layer = MODELS.build({"in_channels": channels, **settings})
        name = f"{getattr(layer, 'plugin_name', type(layer).__name__.lower())}{postfix}"
        if name in dict(parent.named_children()):
            raise ValueError(f"two plugins are named {name!r}; give one of them a `postfix`")
        parent.add_module(name, layer)
        names.append(name)
    return tuple(names)


def apply_plugins(parent: nn.Module, names: Sequence[str], x: Tensor) -> Tensor:
    """x [B, C, H, W] through the plugins of these names, in order."""
    for name in names:
        x = getattr(parent, name)(x)
    return x
