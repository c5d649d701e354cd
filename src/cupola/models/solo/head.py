"""SOLO and its head.

Letters: B images, C classes, g cells of a grid's side, (h, w) a map, P cells that are chosen.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.dense.segmentor import InstanceSegmentor
from cupola.models.dense.stacks import GROUP_NORM, apply, stack
from cupola.models.maskformer.fusion import resize_masks
from cupola.models.solo.matrix_nms import detections, matrix_nms, point_nms
from cupola.models.solo.targets import GridTargets, grid_targets, smaller_masks
from cupola.registry import MODELS
from cupola.structures import Detections

Config = Mapping[str, Any]
Maps = Sequence[Tensor]
Size = tuple[int, int]
Targets = Sequence[Mapping[str, Tensor]]

STRIDES = (4, 8, 16, 32, 64)
RANGES = ((8, 32), (16, 64), (32, 128), (64, 256), (128, 512))
GRIDS = (40, 36, 24, 16, 12)
DICE: Config = {"type": "DiceLoss", "use_sigmoid": True, "loss_weight": 3.0}
FOCAL: Config = {"type": "FocalLoss", "use_sigmoid": True, "gamma": 2.0, "alpha": 0.25}


def initial(*names: str) -> Config:
    """Convolutions begin with std 0.01, those named with a score of 0.01."""
    ends = [{"type": "Normal", "std": 0.01, "bias_prob": 0.01, "name": name} for name in names]
    return {"type": "Normal", "layer": "Conv2d", "std": 0.01, "override": ends}


class SOLOOutput(NamedTuple):
    """One tensor per level: masks [B, g * g, h, w], one a cell, and classes [B, C, g, g].

    In training they are logits. In evaluation masks are probabilities at a fourth of the image's
    size, and classes are scores after NMS among neighbors.
    """

    masks: tuple[Tensor, ...]
    classes: tuple[Tensor, ...]


@MODELS.register_module()
class SOLO(InstanceSegmentor):
    """Segmenting objects by locations. Source: mmdet/models/detectors/solo.py."""


@MODELS.register_module()
class SOLOHead(nn.Module):
    """A stack for classes and one for masks on every level, which is divided into a grid.

    `scale_ranges` are of the roots of objects' areas in pixels, `pos_scale` the part of a box whose
    cells train. Source: mmdet/models/dense_heads/solo_head.py.
    """

    exported_names: tuple[str, ...] = ("scores", "masks")
    mask_stride = 4  # of the masks in evaluation
    adds_levels = False  # whether maps of several levels are added, which needs fitting sizes
    scored_masks: tuple[str, ...] = ("conv_mask_list",)  # layers that begin with a score of 0.01

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        feat_channels: int = 256,
        stacked_convs: int = 4,
        strides: Sequence[int] = STRIDES,
        scale_ranges: Sequence[Sequence[float]] = RANGES,
        pos_scale: float = 0.2,
        num_grids: Sequence[int] = GRIDS,
        cls_down_index: int = 0,
        loss_mask: Config = DICE,
        loss_cls: Config = FOCAL,
        norm_cfg: Config | None = GROUP_NORM,
        train_cfg: Config | None = None,
        test_cfg: Config | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        if not len(strides) == len(scale_ranges) == len(num_grids):
            raise ValueError("strides, scale_ranges and num_grids have one entry for each level")
        self.init_cfg = init_cfg or initial(*self.scored_masks, "conv_cls")
        self.num_classes, self.in_channels = num_classes, in_channels
        self.feat_channels, self.stacked_convs = feat_channels, stacked_convs
        self.strides, self.num_grids = tuple(strides), tuple(num_grids)
        self.ranges, self.pos_scale = tuple(scale_ranges), pos_scale
        self.cls_down_index, self.norm_cfg = cls_down_index, norm_cfg
        self.loss_mask, self.loss_cls = MODELS.build(loss_mask), MODELS.build(loss_cls)
        self.test_cfg = dict(test_cfg or {})
        self.add_layers()
        self.conv_cls = nn.Conv2d(feat_channels, num_classes, 3, padding=1)

    def add_layers(self) -> None:
        """Makes the stacks, and the layers that predict masks."""
        self.mask_convs, self.cls_convs = self.stack(2), self.stack()
        self.conv_mask_list = nn.ModuleList(
            nn.Conv2d(self.feat_channels, grid**2, 1) for grid in self.num_grids
        )

    def stack(self, more: int = 0, **settings: Any) -> nn.ModuleList:
        """`stacked_convs` convolutions of in_channels + `more` channels."""
        channels = (self.in_channels + more, self.feat_channels)
        return stack(self.stacked_convs, *channels, norm_cfg=self.norm_cfg, **settings)

    def forward(self, maps: Maps) -> Any:
        """Feature maps [B, in_channels, h_i, w_i] -> SOLOOutput."""
        resized = self.resized(maps)
        masks = [
            self.finished(layer(doubled(apply(self.mask_convs, with_places(x)))), resized)
            for layer, x in zip(self.conv_mask_list, resized, strict=True)
        ]
        return SOLOOutput(tuple(masks), self.classes(resized))

    def resized(self, maps: Maps) -> list[Tensor]:
        """The finest level at half its size, the coarsest at that of the one before."""
        if len(maps) != len(self.num_grids):
            raise ValueError(f"{len(maps)} feature maps for {len(self.num_grids)} grids")
        first = F.interpolate(maps[0], scale_factor=0.5, mode="bilinear")
        size = (maps[-2].shape[-2], maps[-2].shape[-1])
        return [first, *maps[1:-1], F.interpolate(maps[-1], size=size, mode="bilinear")]

    def classes(self, resized: Maps) -> tuple[Tensor, ...]:
        """Maps -> logits [B, C, g, g]; in evaluation scores after NMS among neighbors."""
        found = []
        for x, grid in zip(resized, self.num_grids, strict=True):
            for index, layer in enumerate(self.cls_convs):
                if index == self.cls_down_index:
                    x = F.interpolate(x, size=(grid, grid), mode="bilinear")
                x = layer(x)
            logits = self.conv_cls(x)
            found.append(logits if self.training else point_nms(logits.sigmoid()))
        return tuple(found)

    def finished(self, logits: Tensor, resized: Maps) -> Tensor:
        """In evaluation probabilities at the size of the finest level."""
        if self.training:
            return logits
        height, width = resized[0].shape[-2:]
        return F.interpolate(logits.sigmoid(), size=(2 * height, 2 * width), mode="bilinear")

    def exported(self, output: Any) -> tuple[Tensor, ...]:
        """Scores [B, S, C] and probabilities of masks [B, S, h, w] of the cells of all levels."""
        return torch.cat(self.scores(output), 1), torch.cat(output.masks, 1)

    def scores(self, output: Any) -> list[Tensor]:
        """Scores [B, g * g, C] of every level in evaluation."""
        return [each.flatten(2).transpose(1, 2).float() for each in output.classes]

    def masks_of(self, output: Any, image: int, level: int, cells: Tensor) -> Tensor:
        """The probabilities of the masks of chosen cells of a level in evaluation [P, h, w]."""
        return output.masks[level][image][cells].float()

    def predict(
        self, output: Any, sizes: Sequence[Size], originals: Sequence[Size]
    ) -> list[Detections]:
        """Detections with masks of `originals` (height, width); `sizes` are without padding."""
        pairs = enumerate(zip(sizes, originals, strict=True))
        return [self._predict(output, image, *each) for image, each in pairs]

    def _predict(self, output: Any, image: int, size: Size, original: Size) -> Detections:
        masks, scores, labels = [], [], []
        threshold = self.test_cfg.get("mask_thr", 0.5)
        for level, (found, stride) in enumerate(
            zip(self.scores(output), self.strides, strict=True)
        ):
            above = found[image] > self.test_cfg.get("score_thr", 0.1)
            cells, classes = above.nonzero(as_tuple=True)
            here = self.masks_of(output, image, level, cells)
            inside = here > threshold
            area = inside.sum((1, 2)).float()
            keep = area > stride
            quality = (here * inside).sum((1, 2))[keep] / area[keep]
            masks.append(here[keep])
            scores.append(found[image][above][keep] * quality)
            labels.append(classes[keep])
        mask, score, label = torch.cat(masks), torch.cat(scores), torch.cat(labels)
        kept, score = matrix_nms(mask > threshold, label, score, **self.test_cfg)
        height, width = (self.mask_stride * side for side in mask.shape[-2:])
        resized = resize_masks(mask[kept], (height, width), size, original)
        return detections(resized > threshold, score, label[kept])

    def loss(self, output: Any, targets: Targets, size: Size) -> dict[str, Tensor]:
        """loss_mask and loss_cls of a batch of `size` (height, width); targets have masks."""
        wanted = [self.targets(each, size) for each in targets]
        return self.losses(output, targets, wanted, size)

    def targets(self, target: Mapping[str, Tensor], size: Size) -> list[GridTargets]:
        """What the cells of one image should predict."""
        settings = (self.num_grids, self.ranges, self.pos_scale, self.num_classes)
        return grid_targets(target, size, *settings)

    def losses(
        self, output: Any, targets: Targets, wanted: Sequence[list[GridTargets]], size: Size
    ) -> dict[str, Tensor]:
        """The losses of logits, where a cell is for the last object that claims it."""
        pairs = [[level.last() for level in image] for image in wanted]
        count = sum(len(cells) for image in pairs for cells, _ in image)
        loss_mask = self.no_masks(output)
        for level in range(len(self.num_grids)):
            found = [
                self.mask_logits(output, i, level, image[level][0]) for i, image in enumerate(pairs)
            ]
            stride = round(size[0] / found[0].shape[-2])
            goal = [
                smaller_masks(target["masks"], size, stride)[image[level][1]]
                for target, image in zip(targets, pairs, strict=True)
            ]
            if any(map(len, goal)):
                loss_mask = loss_mask + self.loss_mask(
                    torch.cat(found), torch.cat(goal), avg_factor=count
                )
        return {"loss_mask": loss_mask, "loss_cls": self.class_loss(output, wanted, count)}

    def mask_logits(self, output: Any, image: int, level: int, cells: Tensor) -> Tensor:
        """What the mask loss takes for chosen cells of a level, [P, h, w]."""
        return output.masks[level][image][cells]

    def no_masks(self, output: Any) -> Tensor:
        """Zero, with gradients of all masks."""
        return sum(each.sum() * 0 for each in output.masks)

    def class_loss(self, output: Any, wanted: Sequence[list[GridTargets]], count: int) -> Tensor:
        """The loss of the logits of all cells; `count` are positive."""
        levels = range(len(self.num_grids))
        labels = [image[level].labels.flatten() for level in levels for image in wanted]
        rows = [each.permute(0, 2, 3, 1).flatten(0, 2) for each in output.classes]
        loss: Tensor = self.loss_cls(torch.cat(rows), torch.cat(labels), avg_factor=count + 1)
        return loss


def with_places(x: Tensor) -> Tensor:
    """A map [B, C, h, w] -> [B, C + 2, h, w]: with the place of every pixel (x, y), -1..1."""
    height, width = x.shape[-2:]
    across = torch.linspace(-1, 1, width, device=x.device, dtype=x.dtype)
    down = torch.linspace(-1, 1, height, device=x.device, dtype=x.dtype)
    y, column = torch.meshgrid(down, across, indexing="ij")
    places = torch.stack((column, y)).expand(x.shape[0], -1, -1, -1)
    return torch.cat((x, places), 1)


def doubled(x: Tensor) -> Tensor:
    """A map at twice its size."""
    return F.interpolate(x, scale_factor=2, mode="bilinear")
