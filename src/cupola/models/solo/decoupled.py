"""Heads whose mask of a cell is the product of one for its column and one for its row.

Letters: B images, C classes, g cells of a grid's side, (h, w) a map, P cells that are chosen.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cupola import nn
from cupola.models.dense.stacks import apply
from cupola.models.solo.head import SOLOHead, doubled, with_places
from cupola.registry import MODELS

Config = Mapping[str, Any]


class DecoupledOutput(NamedTuple):
    """One tensor per level: masks of columns and rows [B, g, h, w], and classes [B, C, g, g].

    In evaluation they are probabilities, and scores after NMS among neighbors.
    """

    columns: tuple[Tensor, ...]
    rows: tuple[Tensor, ...]
    classes: tuple[Tensor, ...]


@MODELS.register_module()
class DecoupledSOLOHead(SOLOHead):
    """Two stacks for masks: one sees the pixels' x, one their y. Source: SOLO, section 5."""

    conv_mask_list_x: nn.ModuleList
    conv_mask_list_y: nn.ModuleList
    exported_names = ("scores", "columns", "rows")
    scored_masks = ("conv_mask_list_x", "conv_mask_list_y")

    def add_layers(self) -> None:
        """Makes the stacks, and the layers that predict masks."""
        self.mask_convs_x, self.mask_convs_y = self.stack(1), self.stack(1)
        self.cls_convs = self.stack()
        self.add_predictors()

    def add_predictors(self) -> None:
        """Makes the layers of the last step, a channel for every column and every row."""
        for name in self.scored_masks:
            layers = (nn.Conv2d(self.feat_channels, g, 3, padding=1) for g in self.num_grids)
            self.add_module(name, nn.ModuleList(layers))

    def forward(self, maps: Sequence[Tensor]) -> DecoupledOutput:
        """Feature maps [B, in_channels, h_i, w_i] -> DecoupledOutput."""
        resized = self.resized(maps)
        features = [self.mask_features(with_places(x)) for x in resized]
        columns = zip(self.conv_mask_list_x, features, strict=True)
        rows = zip(self.conv_mask_list_y, features, strict=True)
        return DecoupledOutput(
            tuple(self.finished(layer(doubled(x)), resized) for layer, (x, _) in columns),
            tuple(self.finished(layer(doubled(y)), resized) for layer, (_, y) in rows),
            self.classes(resized),
        )

    def mask_features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """A map with places [B, in_channels + 2, h, w] -> those for columns and for rows."""
        for_rows = torch.cat((x[:, :-2], x[:, -1:]), 1)
        return apply(self.mask_convs_x, x[:, :-1]), apply(self.mask_convs_y, for_rows)

    def exported(self, output: Any) -> tuple[Tensor, ...]:
        """Scores [B, S, C] of all cells; masks of all levels' columns and rows [B, G, h, w]."""
        scores = torch.cat(self.scores(output), 1)
        return scores, torch.cat(output.columns, 1), torch.cat(output.rows, 1)

    def masks_of(self, output: Any, image: int, level: int, cells: Tensor) -> Tensor:
        """The probabilities of the masks of chosen cells of a level in evaluation [P, h, w]."""
        column, row = self._chosen(output, image, level, cells)
        return column.float() * row.float()

    def mask_logits(self, output: Any, image: int, level: int, cells: Tensor) -> Tensor:
        """What the mask loss takes for chosen cells of a level: probabilities [P, h, w]."""
        column, row = self._chosen(output, image, level, cells)
        return row.sigmoid() * column.sigmoid()

    def _chosen(
        self, output: DecoupledOutput, image: int, level: int, cells: Tensor
    ) -> tuple[Tensor, Tensor]:
        grid = self.num_grids[level]
        return output.columns[level][image][cells % grid], output.rows[level][image][cells // grid]

    def no_masks(self, output: Any) -> Tensor:
        """Zero, with gradients of all masks."""
        return sum(each.sum() * 0 for each in (*output.columns, *output.rows))


@MODELS.register_module()
class DecoupledSOLOLightHead(DecoupledSOLOHead):
    """One stack for columns and rows; its last convolution is of `dcn_cfg`."""

    def __init__(self, *args: Any, dcn_cfg: Config | None = None, **options: Any) -> None:
        self.dcn_cfg = dcn_cfg
        super().__init__(*args, **options)

    def add_layers(self) -> None:
        """Makes the stacks, and the layers that predict masks."""
        self.mask_convs = self.stack(2, last_conv_cfg=self.dcn_cfg)
        self.cls_convs = self.stack(last_conv_cfg=self.dcn_cfg)
        self.add_predictors()

    def mask_features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """A map with places [B, in_channels + 2, h, w] -> those for columns and for rows."""
        found = apply(self.mask_convs, x)
        return found, found
