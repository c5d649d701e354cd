"""What published training configs of MMDetection and MMDetection3D say between the lines.

Sizes and colors are in the test pipeline or in the data preprocessor, class names in the dataset.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cupola.config.old_sections import is_old_style
from cupola.errors import ConfigError
from cupola.files import read_text
from cupola.structures.class_names import names_of

LARGEST_NAMES = 2**20  # bytes of a text file with the names of classes
KeyPath = tuple[str, ...]

PIPELINES: tuple[KeyPath, ...] = (
    ("test_dataloader", "dataset", "pipeline"),
    ("val_dataloader", "dataset", "pipeline"),
    ("data", "test", "pipeline"),
    ("test_pipeline",),
)
CLASSES: tuple[KeyPath, ...] = (
    ("test_dataloader", "dataset", "metainfo", "classes"),
    ("metainfo", "classes"),
    ("data", "test", "classes"),
    ("class_names",),
    ("classes",),
)
DATASETS: tuple[KeyPath, ...] = (
    ("test_dataloader", "dataset"),
    ("val_dataloader", "dataset"),
    ("data", "test"),
    ("data", "val"),
)
NEW_STYLE = ("metainfo", "test_dataloader", "val_dataloader")


class Normalization(NamedTuple):
    """Mean and standard deviation of the channels, and whether their order is RGB, not BGR."""

    mean: list[float]
    std: list[float]
    rgb: bool


def class_names(cfg: Mapping[str, Any], number: int | None = None) -> Sequence[str]:
    """The names of the classes; empty where the config has none.

    A config without names may have a dataset that is known and has that `number` of classes.
    """
    found = _own_first(cfg, CLASSES) or ()
    if isinstance(found, str):  # one name, or a file with a name in each line
        path = Path(found)
        return (
            read_text(path, LARGEST_NAMES, ConfigError).splitlines() if path.is_file() else (found,)
        )
    known = () if found else names_of(dataset_type(cfg))
    return known if known and len(known) == number else found


def dataset_type(cfg: Mapping[str, Any]) -> str:
    """The type of the test dataset, without its scope; empty if there is none."""
    dataset = _own_first(cfg, DATASETS)
    while True:
        if isinstance(dataset, list | tuple) and dataset:
            dataset = dataset[0]
        elif isinstance(dataset, Mapping) and (dataset.get("dataset") or dataset.get("datasets")):
            dataset = dataset.get("dataset") or dataset["datasets"]
        else:
            break
    kind = dataset.get("type") if isinstance(dataset, Mapping) else None
    return str(kind or "").rpartition(".")[2]


def _own_first(cfg: Mapping[str, Any], paths: Sequence[KeyPath]) -> Any:
    """The first value; of a config with `data`, what it says itself before a newer base's."""
    if is_old_style(cfg):
        paths = sorted(paths, key=lambda path: path[0] in NEW_STYLE)
    return first_value(cfg, paths)


def first_value(cfg: Mapping[str, Any], paths: Sequence[KeyPath]) -> Any:
    """The value at the first of the paths that leads to one, else None."""
    for path in paths:
        value: Any = cfg
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        if value:
            return value
    return None


def pipeline_steps(cfg: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The transforms of the test pipeline, nested ones too; types without their scope."""
    return list(_steps(_own_first(cfg, PIPELINES) or ()))


def _steps(pipeline: Any, scale: Any = None) -> Iterator[dict[str, Any]]:
    for step in pipeline:
        if not isinstance(step, Mapping) or not isinstance(step.get("type"), str):
            continue
        scale = step.get("img_scale", scale)
        bare = {**step, "type": step["type"].rpartition(".")[2]}
        if scale is not None and bare["type"] == "Resize":
            bare.setdefault("scale", scale)
        yield bare
        yield from _steps(step.get("transforms", ()), scale)


def normalization(
    cfg: Mapping[str, Any], model: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]
) -> Normalization | None:
    """From the data preprocessor, else the pipeline, else `img_norm_cfg`.

    None for a config that has none of them and is not MMDetection's.
    """
    found = model.get("data_preprocessor") or {}
    if "mean" in found:
        rgb = bool(found.get("bgr_to_rgb", False))
        return Normalization(list(found["mean"]), list(found["std"]), rgb)
    normalize = [s for s in steps if s["type"] in ("Normalize", "NormalizeMultiviewImage")]
    found = normalize[-1] if normalize else cfg.get("img_norm_cfg", {})
    if "mean" not in found:
        return _unchanged(cfg, model, steps)
    rgb = bool(found.get("to_rgb", found.get("bgr_to_rgb", True)))
    return Normalization(list(found["mean"]), list(found["std"]), rgb)


def _unchanged(
    cfg: Mapping[str, Any], model: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]
) -> Normalization | None:
    """Of MMDetection's configs that do not normalize, as those of YOLOX; None for others.

    In 3.x it is a `data_preprocessor` without `mean`, in 2.x a pipeline without Normalize.
    """
    own = model.get("data_preprocessor")
    if not isinstance(own, Mapping) and not (steps and is_old_style(cfg)):
        return None
    rgb = bool((own or {}).get("bgr_to_rgb", False))
    return Normalization([0.0, 0.0, 0.0], [1.0, 1.0, 1.0], rgb)
