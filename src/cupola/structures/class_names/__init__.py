"""The names of the classes of published data sets, by the types of their datasets.

A text file has a name in each line, in the order of the labels. Source: MMDetection 3.3.0's
METAINFO and class_names.py.
"""

from functools import cache
from pathlib import Path

VOC = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
SHORT = {"VOCDataset": VOC, "WIDERFaceDataset": ("face",), "CrowdHumanDataset": ("person",)}
FILES = {
    "CityscapesDataset": "cityscapes",
    "DeepFashionDataset": "deepfashion",
    "LVISDataset": "lvis_v05",
    "LVISV1Dataset": "lvis_v1",
    "LVISV05Dataset": "lvis_v05",
    "Objects365V1Dataset": "objects365_v1",
    "Objects365V2Dataset": "objects365_v2",
    "OpenImagesDataset": "open_images",
    "OpenImagesChallengeDataset": "open_images_challenge",
}


@cache
def names_of(dataset: str) -> tuple[str, ...]:
    """The names of the classes of a dataset's type, such as "VOCDataset"; empty if not known."""
    if dataset in SHORT:
        return SHORT[dataset]
    if dataset not in FILES:
        return ()
    text = (Path(__file__).parent / f"{FILES[dataset]}.txt").read_text(encoding="utf-8")
    return tuple(text.removesuffix("\n").split("\n"))
