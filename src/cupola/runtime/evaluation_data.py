"""Which dataset and metric measure a detector on a folder: `cupola evaluate --data`."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cupola.errors import InputError, did_you_mean
from cupola.files import read_json

Options = Mapping[str, Any]  # annotations, images, format, published (of the config), ...
Parts = tuple[dict[str, Any], Any]  # the configs of a dataset and of its metrics
PLACES = ("", "annotations/", "challenge2019/")
LABELS = ("class-descriptions-boxable.csv", "cls-label-description.csv")
HIERARCHIES = ("bbox_labels_600_hierarchy.json", "class_label_tree.np")


def coco(root: Path, options: Options) -> Parts:
    """Objects of a COCO file, or of one with its format: COCO AP."""
    file = _json(root, options)
    return {"type": "CocoDataset", "ann_file": file, **_images(root, file, options)}, "CocoMetric"


def lvis(root: Path, options: Options) -> Parts:
    """An LVIS file of version 0.5, which names its images, or 1: LVIS AP."""
    file = _json(root, options)
    images = _content(root / file).get("images")
    first = _entry(images[0]) if isinstance(images, list) and images else {}
    name = str(first.get("file_name", ""))
    old = name.startswith("COCO") or (name and "coco_url" not in first)
    kind = "LVISV05Dataset" if old else "LVISV1Dataset"
    prefix = {"data_prefix": options["images"]} if options.get("images") else {"data_prefix": ""}
    return {"type": kind, "ann_file": file, **prefix}, "LVISMetric"


def panoptic(root: Path, options: Options) -> Parts:
    """A COCO panoptic file: panoptic quality. Maps are in the folder named like it."""
    file = _json(root, options)
    maps = Path(file).with_suffix("")
    folder = str(maps) if (root / maps).is_dir() else "panoptic"
    prefix = {"img": options.get("images") or _like(root, file) or "images", "seg": folder}
    kind = {"type": "CocoPanopticDataset", "ann_file": file, "data_prefix": prefix}
    return kind, "PanopticQuality"


def voc(root: Path, options: Options) -> Parts:
    """A folder such as VOC2007, or the one that holds it: VOC's mean AP, by the year's rule."""
    below = next((each for each in ("VOC2007", "VOC2012") if (root / each).is_dir()), "")
    place = root / below
    lists = [f"ImageSets/Main/{name}.txt" for name in ("test", "val", "trainval", "train")]
    file = options.get("annotations") or _first(place, lists)
    if not file or not (place / "Annotations").is_dir():
        raise InputError(
            f"{root}: not a folder of Pascal VOC, which has JPEGImages, Annotations and "
            "ImageSets/Main/test.txt; name another list of images with --annotations"
        )
    mode = (options.get("published") or {}).get("eval_mode")
    mode = mode or ("11points" if "2007" in str(place.resolve()) else "area")
    dataset = {"type": "VOCDataset", "data_prefix": below, "ann_file": f"{below}/{file}".strip("/")}
    folder = {"img_subdir": options["images"]} if options.get("images") else {}
    return {**dataset, **folder}, {"type": "VOCMetric", "eval_mode": mode}


def widerface(root: Path, options: Options) -> Parts:
    """WIDER FACE with XML files: mean AP as Pascal VOC's of 2007."""
    below = options.get("images") or _first(root, ("WIDER_val", "WIDER_train"))
    file = options.get("annotations") or _first(root, ("val.txt", "train.txt"))
    if not below or not file:
        raise InputError(
            f"{root}: not a folder of WIDER FACE, which has WIDER_val with Annotations, and "
            "val.txt; name another list of images with --annotations"
        )
    dataset = {"type": "WIDERFaceDataset", "data_prefix": below, "ann_file": file}
    return dataset, {"type": "VOCMetric", "eval_mode": "11points"}


def openimages(root: Path, options: Options) -> Parts:
    """Open Images, or with a .txt file its challenge: mean AP with groups and the hierarchy."""
    names = ("validation-annotations-bbox.csv", "challenge-2019-validation-detection-bbox.txt")
    file = options.get("annotations") or _search(root, names, "of boxes", "--annotations")
    challenge = str(file).endswith(".txt")
    levels = (
        "validation-annotations-human-imagelabels-boxable.csv",
        "challenge-2019-validation-detection-human-imagelabels.csv",
    )
    level = options.get("image_labels") or _found(root, levels[challenge:][:1])
    images = options.get("images") or _first(root, ("OpenImages/validation", "validation"))
    dataset = {
        "type": "OpenImagesChallengeDataset" if challenge else "OpenImagesDataset",
        "ann_file": file,
        "label_file": options.get("classes") or _search(root, LABELS, "of classes", "--classes"),
        "hierarchy_file": options.get("hierarchy")
        or _search(root, HIERARCHIES, "of the hierarchy", "--hierarchy"),
        "data_prefix": images or "images",
        **({"image_level_ann_file": level} if level else {}),
    }
    return dataset, "OpenImagesMetric"


def crowdhuman(root: Path, options: Options) -> Parts:
    """CrowdHuman: AP, the log-average miss rate and the Jaccard index."""
    file = options.get("annotations") or _search(
        root, ("annotation_val.odgt", "annotation_train.odgt"), "of people", "--annotations"
    )
    prefix = {"img": options.get("images") or "Images"}
    return {"type": "CrowdHumanDataset", "ann_file": file, "data_prefix": prefix}, (
        "CrowdHumanMetric"
    )


FORMATS: dict[str, Callable[[Path, Options], Parts]] = {
    "coco": coco,
    "lvis": lvis,
    "panoptic": panoptic,
    "voc": voc,
    "widerface": widerface,
    "openimages": openimages,
    "crowdhuman": crowdhuman,
}
OF_SUFFIX = {".csv": "openimages", ".odgt": "crowdhuman", ".xml": "voc"}
ONLY = {"classes": "openimages", "hierarchy": "openimages", "image_labels": "openimages"}


def dataset_and_metric(root: Path, options: Options) -> Parts:
    """The configs of the dataset in a folder and of its metric.

    options: "format" (a key of FORMATS, by default what the folder has), "annotations" and
    "images", names in the folder, for Open Images "classes", "hierarchy" and "image_labels", and
    "published", the evaluator of the model's own config. Raises InputError for what does not fit.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder")
    name = options.get("format") or format_of(root, options)
    if name not in FORMATS:
        raise InputError(
            f"--format {name!r}{did_you_mean(name, FORMATS)}; use one of {', '.join(FORMATS)}"
        )
    for key, only in ONLY.items():
        if options.get(key) and name != only:
            raise InputError(f"--{key.replace('_', '-')} has no effect for the format {name}")
    dataset, metric = FORMATS[name](root, options)
    found = {"type": metric} if isinstance(metric, str) else metric
    return {**dataset, "data_root": str(root), "test_mode": True}, found


def format_of(root: Path, options: Options) -> str:
    """The format that the files of a folder have."""
    file = str(options.get("annotations") or "")
    if Path(file).suffix in OF_SUFFIX:
        return OF_SUFFIX[Path(file).suffix]
    if file.endswith(".txt"):
        faces = any(root.glob("WIDER_*"))
        boxes = "detection-bbox" in file
        return "widerface" if faces else "openimages" if boxes else "voc"
    if not file:
        if any((root / each / "Annotations").is_dir() for each in ("", "VOC2007", "VOC2012")):
            return "voc"
        for pattern, name in (
            ("WIDER_*", "widerface"),
            ("*.odgt", "crowdhuman"),
            ("*/*-annotations-bbox.csv", "openimages"),
            ("*-annotations-bbox.csv", "openimages"),
            ("*/challenge-*-detection-bbox.txt", "openimages"),
        ):
            if any(root.glob(pattern)):
                return name
    return _kind_of_json(_content(root / _json(root, options)))


def _kind_of_json(content: Mapping[str, Any]) -> str:
    rows = {key: content.get(key) for key in ("annotations", "categories")}
    first = {k: v[0] for k, v in rows.items() if isinstance(v, list) and v}
    if "segments_info" in _entry(first.get("annotations")):
        return "panoptic"
    return "lvis" if "frequency" in _entry(first.get("categories")) else "coco"


def _entry(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _content(path: Path) -> Mapping[str, Any]:
    return _entry(read_json(path))


def _json(root: Path, options: Options) -> str:
    """The file of annotations: the one named, instances.json, or the only one."""
    if given := options.get("annotations"):
        return str(given)
    usual = ("instances.json", "annotations/instances_val2017.json")
    if found := _first(root, usual):
        return found
    files = sorted(str(p.relative_to(root)) for place in PLACES[:2] for p in _jsons(root / place))
    if len(files) == 1:
        return files[0]
    there = f"it has {', '.join(files[:5])}" if files else "it has no other file of annotations"
    raise InputError(f"{root}: no instances.json; name the file with --annotations ({there})")


def _jsons(folder: Path) -> list[Path]:
    return list(folder.glob("*.json")) if folder.is_dir() else []


def _images(root: Path, file: str, options: Options) -> dict[str, Any]:
    folder = options.get("images") or _like(root, file)
    return {"data_prefix": folder} if folder else {}


def _like(root: Path, file: str) -> str | None:
    """The folder of images that COCO's names for files imply: val2017 for instances_val2017."""
    part = Path(file).stem.rpartition("_")[2]
    return part if part and (root / part).is_dir() else None


def _first(root: Path, names: Sequence[str]) -> str | None:
    return next((name for name in names if (root / name).exists()), None)


def _found(root: Path, names: Sequence[str]) -> str | None:
    return _first(root, [place + name for name in names for place in PLACES])


def _search(root: Path, names: Sequence[str], what: str, flag: str) -> str:
    found = _found(root, names)
    if found is None:
        raise InputError(f"{root}: no file {what} ({' or '.join(names)}); name it with {flag}")
    return found
