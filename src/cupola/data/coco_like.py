"""Datasets with files in COCO's format and names of their own in published configs.

Source: mmdet/datasets/cityscapes.py, deepfashion.py and objects365.py and v3det.py.
"""

from cupola.data.coco import CocoDataset
from cupola.registry import DATASETS

# Their classes are those of the file, in the order of the ids, unless metainfo names some.
COCO_LIKE = (
    "CityscapesDataset",
    "DeepFashionDataset",
    "Objects365V1Dataset",
    "Objects365V2Dataset",
    "V3DetDataset",
)
DATASETS.register_module(COCO_LIKE)(CocoDataset)
