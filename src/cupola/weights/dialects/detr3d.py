"""DETR3D's checkpoints: WangYueFt/detr3d and MMDetection3D 1.x.

Both use our keys. They differ in what the box channels mean: MMDetection3D 1.0 swapped length and
width and turned the yaw, yaw_old = -yaw - pi/2, so that the last layer of every regression branch
has to be rewritten. Nothing in the keys tells the two apart: a checkpoint is taken as MMDetection3D
1.x's unless `dialect="detr3d-original"` asks for the conversion.
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
)
