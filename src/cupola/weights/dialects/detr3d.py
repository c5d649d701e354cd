"""DETR3D's checkpoints: WangYueFt/detr3d and MMDetection3D 1.x.

Both use our keys. They differ in the meaning of the box channels: MMDetection3D 1.0 swapped length
and width and turned the yaw, yaw_old = -yaw - pi/2, so the last layer of every regression branch
has to be rewritten. The keys do not tell the two apart: a checkpoint is read as one of
MMDetection3D 1.x unless `dialect="detr3d-original"` requests the conversion.

The published trainings start from other checkpoints: an FCOS3D detector, which has DETR3D's
backbone and neck, or with VoVNet a DD3D detector, which has its backbone. Their heads, and the
further levels of their neck, are not used.
"""

import re

from torch import Tensor

from cupola.weights.dialects.base import Dialect, State, StateView

LAST_LAYER = re.compile(r"pts_bbox_head\.reg_branches\.\d+\.4\.(weight|bias)")
# log w, log l = log l, log w; sin, cos = -cos, -sin. Its own inverse.
SIZES, TURNS = (2, 3), (6, 7)


def _is_detr3d(own: StateView) -> bool:
    return any(LAST_LAYER.fullmatch(key) for key in own)


def swap_box_convention(state: StateView) -> State:
    """The state with the regression's rows rewritten from one convention to the other."""
    return {
        key: _swap_rows(value) if LAST_LAYER.fullmatch(key) else value
        for key, value in state.items()
    }


def _swap_rows(value: Tensor) -> Tensor:
    rows = value.clone()
    rows[list(SIZES)] = value[list(reversed(SIZES))]
    rows[list(TURNS)] = -value[list(reversed(TURNS))]
    return rows


# FCOS3D's own names, those in the original repository's downloads, and DD3D's.
ANCESTOR = re.compile(r"(?:img_)?((?:backbone|neck)\.)(?:bottom_up\.)?(.+)")


def _is_ancestor(state: StateView) -> bool:
    parts = {key.partition(".")[0] for key in state}
    has_backbone = not parts.isdisjoint({"backbone", "img_backbone"})
    return has_backbone and "pts_bbox_head" not in parts


def from_ancestor(state: StateView, own: StateView) -> State:
    """backbone.* and neck.* as img_backbone.* and img_neck.*; other keys keep their names."""
    found = ((ANCESTOR.fullmatch(key), key, value) for key, value in state.items())
    return {f"img_{match[1]}{match[2]}" if match else key: value for match, key, value in found}


DETR3D_DIALECTS = (
    Dialect(
        "mmdet3d",
        lambda state, own: _is_detr3d(own) and _is_detr3d(state),
        lambda state, own: dict(state),
        lambda state: dict(state),
    ),
    Dialect(
        "detr3d-original",
        lambda state, own: False,
        lambda state, own: swap_box_convention(state),
        swap_box_convention,
    ),
    Dialect(
        "fcos3d",
        lambda state, own: _is_detr3d(own) and _is_ancestor(state),
        from_ancestor,
        partial=True,
    ),
)
