"""`cupola.build`: a model from its config, and optionally a checkpoint."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cupola import nn, registry
from cupola.errors import BuildError
from cupola.parallel import Group
from cupola.runtime.missing import missing_classes
from cupola.weights import load_shard, load_weights
from cupola.weights.own_files import is_own

logger = logging.getLogger("cupola")

OLD_BOXES = (
    "%s: the config is one of %s, whose checkpoints swap length and width and turn "
    "the yaw (boxes of MMDetection3D before 1.0). It was read without conversion; if it is such a "
    "checkpoint, say --from detr3d-original, and if it is one of MMDetection3D 1.x, --from mmdet3d"
)

OLD_PETR = (
    "%s: the config is one of megvii-research/PETR, whose checkpoints swap length and width and "
    "turn the yaw (boxes of MMDetection3D before 1.0). It was read without conversion; if it is "
    "such a checkpoint, %sset model.pts_bbox_head.old_boxes=True in the config"
)
PETR_HEADS = {"PETRHead", "PETRv2Head", "PETRv2DNHead"}
# Classes that only the repositories of before MMDetection3D 1.0 name so.
OLD_NAMES = {
    "Detr3D": "WangYueFt/detr3d",
    "Detr3DHead": "WangYueFt/detr3d",
    "BEVFormerHead": "fundamentalvision/BEVFormer",
}


def build(
    cfg: Mapping[str, Any],
    weights: str | Path | None = None,
    dialect: str | None = None,
    **defaults: Any,
) -> Any:
    """The model that a config dict describes; the dict is not changed.

    With `weights` nothing is initialized: the model is built on the meta device and takes the
    checkpoint's tensors from the mapped file. `Pretrained` initializations in the config are
    ignored, since the checkpoint replaces them. Raises BuildError, CheckpointError.
    """
    try:
        if weights is None:
            return registry.build(cfg, **defaults)
        with nn.on_meta():
            model = registry.build(without_pretrained(cfg), **defaults)
    except BuildError as error:
        raise _with_missing_classes(error, cfg) from error
    load_weights(model, weights, dialect, assign=True)
    return model


def warn_of_old_boxes(cfg: Mapping[str, Any], weights: str | Path, dialect: str | None) -> bool:
    """A warning if a published config is of before MMDetection3D 1.0 and no dialect was named.

    Checkpoints that Cupola wrote itself are not warned of. -> whether there was a warning.

    WangYueFt/detr3d spells the classes Detr3D and Detr3DHead, MMDetection3D's project DETR3D and
    DETR3DHead. megvii-research/PETR's detector is Petr3D, and that of MMDetection3D's project PETR.
    BEVFormer was only published for versions before 1.0.
    BuildError where the conversion was asked for and cannot be made in the weights.
    """
    head = cfg.get("pts_bbox_head")
    parts = (cfg, head)
    names = {registry.bare_type(part) for part in parts if isinstance(part, Mapping)}
    petr = "Petr3D" in names and names & PETR_HEADS
    grouped = bool(petr and isinstance(head, Mapping) and head.get("with_multi"))
    if grouped and dialect == "detr3d-original":
        raise BuildError(
            f"{weights}: --from detr3d-original cannot rewrite a head that regresses in groups "
            "(with_multi); set model.pts_bbox_head.old_boxes=True instead"
        )
    known = PETR_HEADS | {"Detr3DHead", "DETR3DHead", "BEVFormerHead"}
    if dialect == "detr3d-original" and names and not names & known:
        raise BuildError(
            f"{weights}: --from detr3d-original rewrites the boxes of {', '.join(sorted(known))}, "
            f"not those of {', '.join(sorted(names))}"
        )
    if dialect is not None or (isinstance(head, Mapping) and head.get("old_boxes")):
        return False
    old = names & OLD_NAMES.keys()
    if not (old or petr) or is_own(weights):
        return False
    if old:
        logger.warning(OLD_BOXES, weights, OLD_NAMES[min(old)])
    else:
        logger.warning(OLD_PETR, weights, "" if grouped else "say --from detr3d-original, or ")
    return True


def _with_missing_classes(error: BuildError, cfg: Mapping[str, Any]) -> BuildError:
    """The error itself, or one that lists all missing classes where there are several."""
    text, found, _ = str(error).partition(" is not in the registry ")
    missing = sorted(missing_classes(cfg.get("model", cfg), cfg.get("default_scope")))
    if not found or len(missing) < 2:
        return error
    return BuildError(
        f"{text} is not included, nor are other classes of this config: {', '.join(missing)}; "
        "this family is not included; register it with --plugin"
    )


def build_part(cfg: Mapping[str, Any], weights: str | Path, group: Group, **defaults: Any) -> Any:
    """This rank's part of a model whose class takes a `group`; only that part is read.

    Raises BuildError for a model that cannot be split, CheckpointError.
    """
    with nn.on_meta():
        model = registry.build(without_pretrained(cfg), group=group, **defaults)
    load_shard(model, weights, group)
    return model


def without_pretrained(cfg: Any) -> Any:
    """The config without `pretrained` and without `init_cfg` of type Pretrained."""
    if isinstance(cfg, Mapping):
        return {
            key: without_pretrained(value)
            for key, value in cfg.items()
            if key != "pretrained" and not _is_pretrained(key, value)
        }
    if isinstance(cfg, (list, tuple)):
        return type(cfg)(without_pretrained(item) for item in cfg)
    return cfg


def _is_pretrained(key: str, value: Any) -> bool:
    return (
        key == "init_cfg"
        and isinstance(value, Mapping)
        and registry.bare_type(value) == "Pretrained"
    )
