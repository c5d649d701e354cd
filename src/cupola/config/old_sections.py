"""The data of MMDetection3D 0.x training configs, as the sections of 1.x.

Configs written for 0.x (`data`, `optimizer`, `lr_config`, `runner`) name base files of
MMDetection3D, and with an installation of 1.x inherit `train_dataloader`, `metainfo` and others
from these. What `data` says is the file's own, and is preferred.
"""

from collections.abc import Mapping
from typing import Any

Section = Mapping[str, Any]
SPLITS = ("train", "val", "test")
STREAMS = "InfiniteGroupEachSampleInBatchSampler"  # StreamPETR's; others only shuffle
WRAPPED = ("dataset", "datasets")
# Sections of the recipe, and those of 1.x that a base file may have in their place.
RECIPE = {
    "optimizer": "optim_wrapper",
    "lr_config": "param_scheduler",
    "runner": "train_cfg",
    "total_epochs": "train_cfg",
}


def is_old_style(cfg: Section) -> bool:
    """Whether the config has `data` with the sets of 0.x and 2.x."""
    data = cfg.get("data")
    return isinstance(data, Mapping) and any(isinstance(data.get(s), Mapping) for s in SPLITS)


def nuscenes_sections(cfg: Section) -> dict[str, Any]:
    """A config whose `data` holds nuScenes sets, with the data loaders of 1.x; others as they are.

    Sections of 1.x that it has besides are a base file's: they are replaced, or removed where the
    recipe has its own of 0.x.
    """
    if not is_old_style(cfg) or not any(_is_nuscenes(cfg["data"].get(s)) for s in SPLITS):
        return dict(cfg)
    data, made = cfg["data"], dict(cfg)
    shared = {
        "data_root": _first(data, "data_root") or cfg.get("data_root"),
        "classes": _first(data, "classes") or cfg.get("class_names"),
    }
    for split in SPLITS:
        inherited = (cfg.get(f"{split}_dataloader") or {}).get("dataset") or {}
        if isinstance(data.get(split), Mapping):
            own = {**shared, "test_mode": split != "train"}
            own |= {"ann_file": f"nuscenes_infos_{_file(split)}.pkl"}
            own |= {k: inherited[k] for k in ("ann_file",) if inherited.get(k)}
            made[f"{split}_dataloader"] = {
                "batch_size": data.get("samples_per_gpu", 1) if split == "train" else 1,
                "num_workers": data.get("workers_per_gpu", 0),
                "dataset": _dataset(data[split], own),
            }
            sampler = data.get("shuffler_sampler")
            if split == "train" and isinstance(sampler, Mapping) and sampler.get("type") == STREAMS:
                made["train_dataloader"]["sampler"] = dict(sampler)
    for evaluator in ("val_evaluator", "test_evaluator"):
        made[evaluator] = {"type": "NuScenesMetric"}
    if shared["classes"]:
        made["metainfo"] = {"classes": list(shared["classes"])}
    for old, new in RECIPE.items():
        if cfg.get(old) is not None:
            made.pop(new, None)
    return made


def _file(split: str) -> str:
    return "train" if split == "train" else "val"


def _first(data: Section, key: str) -> Any:
    """The value of a key in the first set that has it, also in a set that is wrapped."""
    found = [data[split] for split in ("test", "train", "val") if split in data]
    while found:
        each = found.pop(0)
        if isinstance(each, Mapping):
            if each.get(key):
                return each[key]
            found += [each[inner] for inner in WRAPPED if inner in each]
    return None


def _is_nuscenes(dataset: Any) -> bool:
    if not isinstance(dataset, Mapping):
        return False
    inner = any(_is_nuscenes(dataset.get(key)) for key in WRAPPED)
    return inner or "NuScenes" in str(dataset.get("type"))


def _dataset(dataset: Section, defaults: Section) -> dict[str, Any]:
    if isinstance(dataset.get("dataset"), Mapping):  # CBGSDataset
        return {**dataset, "dataset": _dataset(dataset["dataset"], defaults)}
    own = {key: value for key, value in dataset.items() if key not in ("classes", "type")}
    classes = dataset.get("classes") or defaults["classes"]
    given = {key: value for key, value in defaults.items() if key != "classes" and value}
    named = {"metainfo": {"classes": list(classes)}} if classes else {}
    return {"type": "NuScenesDataset", **given, **own, **named}
