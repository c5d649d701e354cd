"""VoVNet (arXiv 1904.09730) with effective squeeze-and-excitation (arXiv 1911.06667).

State keys keep the slashes of the original's layer names, e.g. stage2.OSA2_1.layers.0.OSA2_1_0/conv
(source: vovnet.py of DETR3D).
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.layers.freezing import freeze, keep_statistics
from cupola.registry import MODELS

BIG = ((128, 160, 192, 224), (256, 512, 768, 1024))
SLIM = ((64, 80, 96, 112), (112, 256, 384, 512))


@dataclass(frozen=True)
class Spec:
    """Sizes of a published VoVNet; tuples of four have one entry per stage."""

    stem: tuple[int, int, int] = (64, 64, 128)
    widths: tuple[tuple[int, ...], tuple[int, ...]] = BIG  # inside a block, after a block
    layers: int = 5  # 3x3 convolutions in a block
    blocks: tuple[int, int, int, int] = (1, 1, 1, 1)
    depthwise: bool = False


SPECS = {
    "V-19-slim-dw-eSE": Spec((64, 64, 64), SLIM, layers=3, depthwise=True),
    "V-19-dw-eSE": Spec((64, 64, 64), layers=3, depthwise=True),
    "V-19-slim-eSE": Spec(widths=SLIM, layers=3),
    "V-19-eSE": Spec(layers=3),
    "V-39-eSE": Spec(blocks=(1, 1, 2, 2)),
    "V-57-eSE": Spec(blocks=(1, 1, 4, 3)),
    "V-99-eSE": Spec(blocks=(1, 3, 9, 3)),
}

Named = list[tuple[str, nn.Module]]


def _conv(cin: int, cout: int, name: str, kernel: int = 3, stride: int = 1) -> Named:
    conv = nn.Conv2d(cin, cout, kernel, stride, padding=kernel // 2, bias=False)
    return [
        (f"{name}/conv", conv),
        (f"{name}/norm", nn.BatchNorm2d(cout)),
        (f"{name}/relu", nn.ReLU(inplace=True)),
    ]


def _depthwise(cin: int, cout: int, name: str, stride: int = 1) -> Named:
    return [
        (
            f"{name}/dw_conv3x3",
            nn.Conv2d(cin, cout, 3, stride, padding=1, groups=cout, bias=False),
        ),
        (f"{name}/pw_conv1x1", nn.Conv2d(cin, cout, 1, bias=False)),
        (f"{name}/pw_norm", nn.BatchNorm2d(cout)),
        (f"{name}/pw_relu", nn.ReLU(inplace=True)),
    ]


def _sequence(parts: Named) -> nn.Sequential:
    return nn.Sequential(OrderedDict(parts))


class EffectiveSqueezeExcitation(nn.Module):
    """Scales every channel by hard-sigmoid(linear(mean of the map))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.fc(x.mean((2, 3), keepdim=True))
        return x * (F.relu6(gate + 3.0) / 6.0)


class OneShotAggregation(nn.Module):
    """A chain of 3x3 convolutions whose outputs are concatenated once, at the end."""

    def __init__(
        self,
        cin: int,
        width: int,
        cout: int,
        layers: int,
        name: str,
        *,
        identity: bool = False,
        depthwise: bool = False,
    ) -> None:
        super().__init__()
        self.identity = identity
        self.conv_reduction: nn.Sequential | None = None
        inner = cin
        if depthwise and cin != width:
            self.conv_reduction = _sequence(_conv(cin, width, f"{name}_reduction_0", kernel=1))
            inner = width
        make = _depthwise if depthwise else _conv
        self.layers = nn.ModuleList(
            _sequence(make(inner if i == 0 else width, width, f"{name}_{i}")) for i in range(layers)
        )
        self.concat = _sequence(_conv(cin + layers * width, cout, f"{name}_concat", kernel=1))
        self.ese = EffectiveSqueezeExcitation(cout)

    def forward(self, x: Tensor) -> Tensor:
        """[B, cin, H, W] -> [B, cout, H, W]"""
        parts = [x]
        inner = x if self.conv_reduction is None else self.conv_reduction(x)
        for layer in self.layers:
            inner = layer(inner)
            parts.append(inner)
        out = self.ese(self.concat(torch.cat(parts, dim=1)))
        return out + x if self.identity else out


class HalvingMaxPool2d(nn.MaxPool2d):
    """3x3 windows with stride 2, the last of them partly outside of maps with an even side.

    Exported, the maps are padded instead: torch.export cannot solve the inequalities of ceil_mode
    for sizes that are not fixed.
    """

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H // 2, W // 2]"""
        if torch.compiler.is_exporting():
            return F.max_pool2d(F.pad(input, (0, 1, 0, 1), value=-torch.inf), 3, 2)
        return F.max_pool2d(input, 3, 2, ceil_mode=True)


def _stage(spec: Spec, number: int, cin: int) -> nn.Sequential:
    width, cout = spec.widths[0][number - 2], spec.widths[1][number - 2]
    parts: Named = []
    if number > 2:
        parts.append(("Pooling", HalvingMaxPool2d(3, 2, ceil_mode=True)))
    for block in range(spec.blocks[number - 2]):
        name = f"OSA{number}_{block + 1}"
        parts.append(
            (
                name,
                OneShotAggregation(
                    cin if block == 0 else cout,
                    width,
                    cout,
                    spec.layers,
                    name,
                    identity=block > 0,
                    depthwise=spec.depthwise,
                ),
            )
        )
    return _sequence(parts)


@MODELS.register_module(["VoVNet", "VoVNetCP"])
class VoVNet(nn.Module):
    """x [B, input_ch, H, W] -> the maps named in `out_features`, "stem", "stage2" ... "stage5".

    stem and stage2 have stride 4, each later stage twice that of the one before. `frozen_stages` n
    freezes the stem and the first n stages; `norm_eval` keeps the running statistics in training.
    VoVNetCP is PETR's copy, which saves memory in training by computing activations twice.
    """

    def __init__(
        self,
        spec_name: str,
        input_ch: int = 3,
        out_features: Sequence[str] = ("stage2", "stage3", "stage4", "stage5"),
        frozen_stages: int = -1,
        norm_eval: bool = True,
        pretrained: str | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        if spec_name not in SPECS:
            raise ValueError(f"VoVNet spec_name is one of {sorted(SPECS)}, got {spec_name!r}")
        spec = SPECS[spec_name]
        self.init_cfg = init_cfg or (
            {"type": "Pretrained", "checkpoint": pretrained} if pretrained else None
        )
        self.out_features = tuple(out_features)
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        make = _depthwise if spec.depthwise else _conv
        self.stem = _sequence(
            [
                *_conv(input_ch, spec.stem[0], "stem_1", stride=2),
                *make(spec.stem[0], spec.stem[1], "stem_2", stride=1),
                *make(spec.stem[1], spec.stem[2], "stem_3", stride=2),
            ]
        )
        cin = spec.stem[2]
        for number in range(2, 6):
            self.add_module(f"stage{number}", _stage(spec, number, cin))
            cin = spec.widths[1][number - 2]
        self._freeze()

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        stages = [getattr(self, f"stage{i + 2}") for i in range(self.frozen_stages)]
        freeze((self.stem, *stages))

    def train(self, mode: bool = True) -> "VoVNet":
        super().train(mode)
        self._freeze()
        if mode and self.norm_eval:
            keep_statistics(self)
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.stem(x)
        maps = {"stem": x}
        for number in range(2, 6):
            x = getattr(self, f"stage{number}")(x)
            maps[f"stage{number}"] = x
        return tuple(maps[name] for name in maps if name in self.out_features)
