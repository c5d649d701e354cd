"""Names that MMDetection has given up, which it renames as it loads, or which its tools rename.

Letters: C classes, A anchors of a cell. Sources: the `_load_from_state_dict` of mmcv's
ModulatedDeformConv2dPack and of mmdet's AnchorFreeHead, SingleStageDetector and TwoStageDetector;
tools/model_converters/upgrade_ssd_version.py and upgrade_model_version.py of 2.28.2.
"""

import re

from torch import Tensor

from cupola.weights.dialects.base import Dialect, State, StateView
from cupola.weights.renaming import Renaming

REGIONS = ("bbox_head", "mask_head", "semantic_head", "grid_head", "mask_iou_head")
POINTS = ("cls", "reg", "centerness")  # FCOS' layers were fcos_cls, fcos_reg, ...
RENAMED = ("bbox_head.", "rpn_head.")
SSD = Renaming([("neck.l2_norm", "backbone.l2_norm")])
EXTRA = re.compile(r"backbone\.extra\.(\d+)\.")
SSD_CONV = re.compile(r"(bbox_head\.(?:cls|reg)_convs\.\d+)\.(weight|bias)$")


def offsets_to_ours(state: StateView, own: StateView) -> State:
    """`conv2_offset.weight` -> `conv2.conv_offset.weight`, of early deformable convolutions."""
    renamed = dict(state)
    for key in own:
        early = key.replace(".conv_offset.", "_offset.")
        if early != key and key not in state and early in state and early not in own:
            renamed[key] = renamed.pop(early)
    return renamed


def points_to_ours(state: StateView, own: StateView) -> State:
    """`bbox_head.fcos_cls` -> `bbox_head.conv_cls`, for every name with such an end."""
    renamed = {}
    for key, value in state.items():
        parts = key.split(".")
        if key not in own and parts[0] == "bbox_head" and len(parts) == 3:
            end = next((end for end in POINTS if parts[1].endswith(end)), None)
            key = f"bbox_head.conv_{end}.{parts[2]}" if end else key
        renamed[key] = value
    return renamed


def proposals_to_ours(state: StateView, own: StateView) -> State:
    """The head of an RPN, which is `rpn_head` in 2.x and in two stages, and `bbox_head` in 3.x."""
    given, wanted = ("rpn_head.", "bbox_head.") if _has(state, "rpn_head.") else RENAMED
    return {_moved(key, given, wanted): value for key, value in state.items()}


def ssd_to_ours(state: StateView, own: StateView) -> State:
    """SSD before 2.14, whose further layers belonged to the backbone."""
    renamed = {}
    for key, value in state.items():
        name = SSD.to_ours(key) or key
        if match := EXTRA.match(key):
            number = int(match[1])
            place = f"neck.extra_layers.{number // 2}.{number % 2}.conv."
            name = place + key[match.end() :]
        renamed[SSD_CONV.sub(r"\1.0.\2", name)] = value
    return renamed


def version_1_to_ours(state: StateView, own: StateView) -> State:
    """Detectors of two stages of 1.x: names, and class 0 was the background.

    Rows of the classes move up, the background's becomes the last; boxes and masks lose theirs.
    """
    renamed: State = {}
    for key, value in state.items():
        if key.startswith(REGIONS):
            key = f"roi_head.{key}"
            value = _classes_first(key, value, own)
        renamed[key] = value
    return renamed


def _classes_first(key: str, value: Tensor, own: StateView) -> Tensor:
    if ".fc_cls." in key:
        return value.roll(-1, 0)
    rows = 4 if ".fc_reg." in key else 1 if ".conv_logits." in key else 0
    if rows and key in own and len(value) == len(own[key]) + rows:  # not where classes share them
        return value[rows:]
    return value


def _has(state: StateView, prefix: str) -> bool:
    return any(key.startswith(prefix) for key in state)


def _moved(key: str, given: str, wanted: str) -> str:
    return wanted + key.removeprefix(given) if key.startswith(given) else key


def _exchanged(state: StateView, own: StateView) -> bool:
    """Whether the head of an RPN has the other name: the same keys, and no second stage."""
    if _has(own, "roi_head."):
        return False
    return any(
        _has(own, wanted)
        and not _has(own, given)
        and _names(state, given) == _names(own, wanted)
        and not _has(state, wanted)
        for given, wanted in (RENAMED, RENAMED[::-1])
    )


def _names(state: StateView, prefix: str) -> set[str]:
    return {key.removeprefix(prefix) for key in state if key.startswith(prefix)}


EARLY_DIALECTS = (
    Dialect(
        "mmdet-1",
        lambda state, own: (
            _has(state, "bbox_head.")
            and _has(state, "rpn_head.")
            and not _has(state, "roi_head.")
            and _has(own, "roi_head.bbox_head.")
        ),
        version_1_to_ours,
    ),
    Dialect(
        "mmdet-early-ssd",
        lambda state, own: (
            "backbone.l2_norm.weight" in state and "bbox_head.cls_convs.0.0.weight" in own
        ),
        ssd_to_ours,
    ),
    Dialect("mmdet-rpn", _exchanged, proposals_to_ours),
    Dialect(
        "mmdet-early-points",
        lambda state, own: (
            "bbox_head.conv_cls.weight" in own
            and "bbox_head.conv_cls.weight" not in state
            and any(re.fullmatch(r"bbox_head\.\w+_cls\.weight", key) for key in state)
        ),
        points_to_ours,
    ),
)
