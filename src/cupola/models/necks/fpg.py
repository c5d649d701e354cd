"""Feature pyramid grids (arXiv 2004.03580): parallel paths over the levels."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.layers import ConvModule
from cupola.models.necks.pyramid import used_end
from cupola.registry import MODELS
from cupola.registry.budget import reserve

Config = Mapping[str, Any]
CONV: Config = {"type": "conv", "kernel_size": 1}
UP: Config = {"type": "conv", "kernel_size": 3, "stride": 2, "padding": 1}
DOWN: Config = {"type": "interpolation_conv", "kernel_size": 3}
LAST: Config = {"type": "last_conv", "kernel_size": 3}


class UpInterpolationConv(nn.Module):
    """x [B, C, H, W] -> [B, O, scale * H, scale * W]: interpolation, then a convolution."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        scale_factor: int = 2,
        mode: str = "nearest",
        align_corners: bool | None = None,
        kernel_size: int = 3,
        **settings: Any,
    ) -> None:
        super().__init__()
        self.resize: dict[str, Any] = {
            "scale_factor": scale_factor,
            "mode": mode,
            "align_corners": align_corners,
        }
        padding = (kernel_size - 1) // 2
        self.conv = ConvModule(in_channels, out_channels, kernel_size, 1, padding, **settings)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, **self.resize))


class LastConv(nn.Module):
    """The maps of a level in all paths -> a convolution of the last one."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 3, **settings: Any
    ) -> None:
        super().__init__()
        padding = (kernel_size - 1) // 2
        self.conv_out = ConvModule(in_channels, out_channels, kernel_size, 1, padding, **settings)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.conv_out(maps[-1])


TRANSITIONS: dict[str, type[nn.Module]] = {
    "conv": ConvModule,
    "interpolation_conv": UpInterpolationConv,
    "last_conv": LastConv,
}


def _transition(cfg: Config | None, cin: int, cout: int) -> nn.Module | None:
    if cfg is None:
        return None
    settings = dict(cfg)
    kind = settings.pop("type", None)
    if kind not in TRANSITIONS:
        raise ValueError(f"an FPG transition is one of {sorted(TRANSITIONS)}, got {kind!r}")
    return TRANSITIONS[kind](cin, cout, **settings)


@MODELS.register_module()
class FPG(nn.Module):
    """Maps [B, C_i, H_i, W_i] of a backbone -> num_outs maps, through `stack_times` paths.

    `paths` says of each path whether it goes bottom-up ("bu") or top-down ("td"). The transitions
    come from the neighbor in the same path (same_up, same_down), and from the path before: the same
    level (lateral), the coarser (down), the finer (up), and the first path (skip). skip_inds[i] are
    the paths that level i leaves out. Source: mmdet/models/necks/fpg.py.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        num_outs: int,
        stack_times: int,
        paths: Sequence[str],
        inter_channels: int | Sequence[int] | None = None,
        same_down_trans: Config | None = None,
        same_up_trans: Config | None = UP,
        across_lateral_trans: Config | None = CONV,
        across_down_trans: Config | None = DOWN,
        across_up_trans: Config | None = None,
        across_skip_trans: Config | None = CONV,
        output_trans: Config = LAST,
        start_level: int = 0,
        end_level: int = -1,
        add_extra_convs: bool = False,
        norm_cfg: Config | None = None,  # unused, as in the original
        skip_inds: Sequence[Sequence[int]] | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        last = used_end("FPG", len(in_channels), start_level, end_level)
        used = list(in_channels)[start_level : last + 1]
        reserve(num_outs * stack_times)
        skips = skip_inds or [()] * num_outs
        if len(paths) != stack_times or set(paths) - {"bu", "td"}:
            raise ValueError(f"FPG: {stack_times} paths are 'bu' or 'td', got {list(paths)}")
        if num_outs < len(used) or len(skips) != num_outs:
            raise ValueError(f"FPG: {num_outs} outputs of {len(used)} inputs, skip_inds {skips}")
        self.init_cfg = init_cfg
        self.start_level = start_level
        self.paths = tuple(paths)
        self.skips = tuple(frozenset(each) for each in skips)
        if inter_channels is None or isinstance(inter_channels, int):
            inter_channels = [inter_channels or out_channels] * num_outs
        C = list(inter_channels)
        self.lateral_convs = nn.ModuleList(nn.Conv2d(w, C[i], 1) for i, w in enumerate(used))
        self.extra_downsamples = nn.ModuleList()
        for i in range(len(used), num_outs):
            conv = nn.Conv2d(C[i - 1], C[i], 3, 2, padding=1)
            self.extra_downsamples.append(conv if add_extra_convs else nn.MaxPool2d(1, 2))
        # Of each: the level that it comes from, relative to its own.
        kinds = {
            "same_up": (same_up_trans, -1),
            "same_down": (same_down_trans, 1),
            "across_lateral": (across_lateral_trans, 0),
            "across_down": (across_down_trans, 1),
            "across_up": (across_up_trans, -1),
            "across_skip": (across_skip_trans, 0),
        }
        self.fpn_transitions = nn.ModuleList()
        for path in range(stack_times):
            levels = nn.ModuleList()
            for i in range(num_outs):
                cells = nn.ModuleDict()
                for name, (cfg, step) in kinds.items() if path not in self.skips[i] else ():
                    if 0 <= i + step < num_outs:
                        cell = _transition(cfg, C[i + step], C[i])
                        if cell is not None:
                            cells[name] = cell
                levels.append(cells)
            self.fpn_transitions.append(levels)
        self.output_transition = nn.ModuleList()
        for width in C:
            output = _transition(output_trans, width, out_channels)
            assert output is not None
            self.output_transition.append(output)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        used = inputs[self.start_level : self.start_level + len(self.lateral_convs)]
        maps = [conv(x) for conv, x in zip(self.lateral_convs, used, strict=True)]
        for downsample in self.extra_downsamples:
            maps.append(downsample(maps[-1]))
        grid = [maps]
        for path in range(len(self.paths)):
            grid.append(self._path(path, grid[0], grid[-1]))
        levels = zip(self.output_transition, zip(*grid, strict=True), strict=True)
        return tuple(transition(each) for transition, each in levels)

    def _path(self, path: int, first: list[Tensor], before: list[Tensor]) -> list[Tensor]:
        """The maps of a path, from those of the first path and of the one before it."""
        down = self.paths[path] == "td"
        outs: list[Tensor] = []
        for j in range(len(before)):
            i = len(before) - 1 - j if down else j
            if path in self.skips[j]:
                outs.append(before[j])
                continue
            cells = self.fpn_transitions[path][i]
            sources = {
                ("same_down" if down else "same_up"): outs[-1] if outs else None,
                "across_lateral": before[i],
                "across_up": before[i - 1] if i else None,
                "across_down": before[i + 1] if i + 1 < len(before) else None,
                "across_skip": first[i],
            }
            parts = [cells[name](x) for name, x in sources.items() if name in cells]
            outs.append(sum(parts[1:], parts[0]))
        return outs[::-1] if down else outs
