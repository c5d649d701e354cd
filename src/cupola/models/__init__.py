"""The models. Importing this package registers every class that a config can name."""

from cupola.models import (
    afno,
    backbones,
    bloom,
    conditional_detr,
    dab_detr,
    deformable_detr,
    detr,
    detr3d,
    dino,
    layers,
    llama,
    losses,
    mask2former,
    maskformer,
    matching,
    necks,
)

__all__ = [
    "afno",
    "backbones",
    "bloom",
    "conditional_detr",
    "dab_detr",
    "deformable_detr",
    "detr",
    "detr3d",
    "dino",
    "layers",
    "llama",
    "losses",
    "mask2former",
    "maskformer",
    "matching",
    "necks",
]
