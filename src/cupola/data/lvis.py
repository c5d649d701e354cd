"""LVIS: COCO's images with more than a thousand classes, annotated for some of them each.

Source of the format: lvisdataset.org/dataset, and mmdet/datasets/lvis.py.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cupola.data.coco import CocoDataset
from cupola.data.coco_file import Instances, read_instances
from cupola.data.pipeline import Sample
from cupola.errors import DataError
from cupola.registry import DATASETS

COCO_URL = "http://images.cocodataset.org/"
FREQUENCIES = ("r", "c", "f")  # rare, common, frequent
KNOWN = {"negative": "neg_category_ids", "not_exhaustive": "not_exhaustive_category_ids"}


def old_name(image: Mapping[str, Any]) -> Any:
    """The file of an image of version 0.5: without the part COCO_train2014_ in front."""
    name = image.get("file_name")
    return name[-16:] if isinstance(name, str) and name.startswith("COCO") else name


def name_of_url(image: Mapping[str, Any]) -> Any:
    """The file of an image of version 1, from its coco_url: train2017/000000391895.jpg."""
    url = image.get("coco_url")
    if not isinstance(url, str):
        return image.get("file_name")
    return url.replace("https:", "http:").removeprefix(COCO_URL)


@DATASETS.register_module()
class LVISV1Dataset(CocoDataset):
    """CocoDataset of an LVIS file of version 1, whose images are below the folder of COCO's.

    With test_mode a sample also holds "federated", for LVISMetric: labels that the image is known
    not to have ("negative"), and those whose objects may be missing ("not_exhaustive").
    """

    file_name = staticmethod(name_of_url)

    def read(self, path: Path) -> Instances:
        """The content of the file of annotations."""
        content = read_instances(path, self.file_name)
        self._frequency_of: dict[str, str] = {}
        for entry in content.category_entries:
            found = entry.get("frequency")
            if found not in FREQUENCIES:
                raise DataError(
                    f"{path}: category {entry['id']!r:.40}: frequency is {found!r:.40}; expected "
                    "r, c or f, as LVIS has it"
                )
            self._frequency_of[entry["name"]] = found
        for image in content.images:
            _check_known(path, image)
        return content

    @property
    def frequencies(self) -> list[str]:
        """r, c or f (rare, common, frequent) for each class."""
        return [self._frequency_of.get(name, "r") for name in self.names]

    def federated(self, index: int) -> dict[str, list[int]]:
        """What is known of image `index` besides its objects, in labels."""
        image = self.images[index]
        return {
            ours: sorted(self._label_of[each] for each in image[key] if each in self._label_of)
            for ours, key in KNOWN.items()
        }

    def load(self, index: int) -> Sample:
        """Sample `index` before the pipeline."""
        sample = super().load(index)
        return {**sample, "federated": self.federated(index)} if self.test_mode else sample


def _check_known(path: Path, image: Mapping[str, Any]) -> None:
    for key in KNOWN.values():
        value = image.get(key)
        if not isinstance(value, list) or not all(isinstance(v, int) for v in value):
            raise DataError(
                f"{path}: image {image['id']!r:.60}: {key} is {value!r:.60}; expected a list of "
                "category ids, as LVIS has it"
            )


@DATASETS.register_module(["LVISV05Dataset", "LVISDataset"])
class LVISV05Dataset(LVISV1Dataset):
    """LVISV1Dataset of a file of version 0.5, which names its images."""

    file_name = staticmethod(old_name)
