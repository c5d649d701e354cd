"""Training configs of MMDetection 2.x, rewritten with the sections of 3.x.

Source: mmdet 2.28's apis/train.py, datasets/builder.py and mmcv 1.x's runner and hooks, whose
defaults are spelled out here where they differ from those of 3.x.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cupola.data.coco_like import COCO_LIKE
from cupola.errors import BuildError
from cupola.files import read_text
from cupola.train.version2_pipeline import padding_of, preprocessing_of, translated_pipeline

LARGEST_NAMES = 2**20  # bytes of a text file with the names of classes

Config = Mapping[str, Any]
PREFIXES = {"img_prefix": "img", "seg_prefix": "seg"}
POLICIES = {
    "step": "MultiStepLR",
    "CosineAnnealing": "Version2CosineLR",
    "poly": "Version2PolyLR",
}
RENAMED = {"min_lr": "eta_min", "min_lr_ratio": "eta_min_ratio"}
MIN_SIZE = 32  # smaller images were always left out of training
WITH_MASKS = ("CocoMetric", "LVISMetric")
# The metrics of datasets.
MEASURED = {
    **dict.fromkeys(("CocoDataset", *COCO_LIKE), "CocoMetric"),
    **dict.fromkeys(("LVISDataset", "LVISV05Dataset", "LVISV1Dataset"), "LVISMetric"),
    **dict.fromkeys(("OpenImagesDataset", "OpenImagesChallengeDataset"), "OpenImagesMetric"),
    **dict.fromkeys(("XMLDataset", "WIDERFaceDataset"), "VOCMetric"),
    "CrowdHumanDataset": "CrowdHumanMetric",
}


def to_version_3(cfg: Config) -> dict[str, Any]:
    """The config with the sections of 3.x in place of those of 2.x; one of 3.x is returned as is.

    Raises BuildError for what has no counterpart.
    """
    found = dict(cfg)
    if "data" in found and "train_dataloader" not in found:
        found |= _data(found)
    if "optimizer" in found and "optim_wrapper" not in found:
        found["optim_wrapper"] = _optim_wrapper(found)
    if ("runner" in found or "total_epochs" in found) and not _is_loop(found.get("train_cfg")):
        found["train_cfg"] = _loop(found)
        found["default_hooks"] = {**_hooks(found), **(found.get("default_hooks") or {})}
    if found.get("lr_config") and "param_scheduler" not in found:
        found["param_scheduler"] = _schedules(found["lr_config"], found.get("train_cfg") or {})
    if found.get("resume_from"):
        raise BuildError("resume_from is not read; use --resume, or load_from")
    return found


def _is_loop(cfg: Any) -> bool:
    return isinstance(cfg, Mapping) and ("max_epochs" in cfg or "max_iters" in cfg)


def _section(cfg: Config, key: str) -> dict[str, Any]:
    found = cfg.get(key)
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise BuildError(f"{key}: expected a dict, got {found!r:.60}")
    return dict(found)


def _data(cfg: Config) -> dict[str, Any]:
    """The data loaders and evaluators; the normalization goes into the model's preprocessor."""
    data = _section(cfg, "data")
    if data.get("train") is None:
        raise BuildError("data: needs train, the dataset to train on")
    found: dict[str, Any] = {}
    for part in ("train", "val", "test"):
        if data.get(part) is None:
            continue
        own = _section(data, f"{part}_dataloader")
        each = 1 if part != "train" else data.get("samples_per_gpu", 1)
        if part != "train" and isinstance(data[part], Mapping):
            each = data[part].get("samples_per_gpu", each)
        found[f"{part}_dataloader"] = {
            "batch_size": own.get("samples_per_gpu", each),
            "num_workers": own.get("workers_per_gpu", data.get("workers_per_gpu", 0)),
            "dataset": _dataset(data[part], f"data.{part}", testing=part != "train"),
            "sampler": {"type": "DefaultSampler", "shuffle": part == "train"},
        }
        if part == "train":
            found["train_dataloader"]["batch_sampler"] = {"type": "AspectRatioBatchSampler"}
        elif padding := padding_of(data[part]):
            found[f"{part}_dataloader"]["padding"] = padding
        if part != "train" and (metric := _evaluator(cfg, data[part])):
            found[f"{part}_evaluator"] = metric
            if "segm" in (_section(cfg, "evaluation").get("metric") or ()):
                loader = found[f"{part}_dataloader"]
                loader["dataset"] = _with_masks(loader["dataset"])
    model = _section(cfg, "model")
    pixels = preprocessing_of(data["train"])
    if pixels and not model.get("data_preprocessor"):
        model["data_preprocessor"] = {"type": "DetDataPreprocessor", **pixels}
        found["model"] = model
    return found


def _dataset(cfg: Any, where: str, testing: bool) -> dict[str, Any]:
    if isinstance(cfg, list | tuple):
        parts = [_dataset(each, f"{where}[{i}]", testing) for i, each in enumerate(cfg)]
        return {"type": "ConcatDataset", "datasets": parts}
    if not isinstance(cfg, Mapping):
        raise BuildError(f"{where}: expected a dict, got {cfg!r:.60}")
    if isinstance(cfg.get("ann_file"), list | tuple):
        return _dataset(_split_by_file(cfg), where, testing)
    if "dataset" in cfg or "datasets" in cfg:
        inner = {k: cfg[k] for k in ("dataset", "datasets") if k in cfg}
        below = {key: _inner(value, f"{where}.{key}", testing) for key, value in inner.items()}
        mixed = {"pipeline": translated_pipeline(cfg["pipeline"])} if "pipeline" in cfg else {}
        return {**cfg, **below, **mixed}
    found = {key: value for key, value in cfg.items() if value is not None}
    for key in ("samples_per_gpu", "ins_ann_file"):  # the objects are in the panoptic file, too
        found.pop(key, None)
    if "pipeline" in found:
        found["pipeline"] = translated_pipeline(found["pipeline"])
    prefix = {PREFIXES[key]: found.pop(key) for key in PREFIXES if key in found}
    if prefix:
        found["data_prefix"] = prefix
    if "classes" in found:
        found["metainfo"] = {"classes": _classes(found.pop("classes"), where)}
    empty = found.pop("filter_empty_gt", True)
    if testing:
        found["test_mode"] = True
    else:
        found["filter_cfg"] = {"filter_empty_gt": empty, "min_size": MIN_SIZE}
    return found


def _with_masks(cfg: Any) -> Any:
    """A dataset for testing with the masks of the truth, which pipelines of 2.x do not load."""
    if isinstance(cfg, list | tuple):
        return [_with_masks(each) for each in cfg]
    inner = {key: _with_masks(cfg[key]) for key in ("dataset", "datasets") if key in cfg}
    measured = MEASURED.get(str(cfg.get("type")).rpartition(".")[2])
    own = {"with_mask": True} if measured in WITH_MASKS else {}
    return {**cfg, **own, **inner}


def _inner(cfg: Any, where: str, testing: bool) -> Any:
    if isinstance(cfg, list | tuple):
        return [_dataset(each, f"{where}[{i}]", testing) for i, each in enumerate(cfg)]
    return _dataset(cfg, where, testing)


def _split_by_file(cfg: Config) -> list[dict[str, Any]]:
    """A dataset with several annotation files, as one for each; so are its folders of images."""
    files, folders = list(cfg["ann_file"]), cfg.get("img_prefix")
    each = folders if isinstance(folders, list | tuple) else [folders] * len(files)
    pairs = zip(files, each, strict=True)
    return [{**cfg, "ann_file": file, "img_prefix": folder} for file, folder in pairs]


def _classes(names: Any, where: str) -> tuple[str, ...]:
    """Names of classes, or those in the lines of a text file."""
    if not isinstance(names, str):
        return tuple(names)
    try:
        lines = read_text(Path(names), LARGEST_NAMES, BuildError).splitlines()
    except BuildError as error:
        raise BuildError(f"{where}.classes: {names!r:.60} is not a text file ({error})") from None
    return tuple(line for line in lines if line)


def _evaluator(cfg: Config, dataset: Any) -> Any:
    while isinstance(dataset, Mapping) and ("dataset" in dataset or dataset.get("datasets")):
        dataset = dataset.get("dataset") or dataset["datasets"][0]
    if isinstance(dataset, list | tuple):
        dataset = dataset[0]
    kind = str(dataset.get("type")).rpartition(".")[2]
    metric = _section(cfg, "evaluation").get("metric")
    if kind == "VOCDataset":
        old = "VOC2007" in str(dataset.get("img_prefix"))
        return {"type": "VOCMetric", "eval_mode": "11points" if old else "area"}
    if kind in MEASURED:
        takes_kinds = MEASURED[kind] in WITH_MASKS and metric is not None
        return {"type": MEASURED[kind], **({"metric": metric} if takes_kinds else {})}
    if kind != "CocoPanopticDataset":
        return None
    wanted = [metric] if isinstance(metric, str) else list(metric or ())
    objects = [each for each in ("bbox", "segm") if each in wanted]
    panoptic = {"type": "CocoPanopticMetric"}
    return [panoptic, {"type": "CocoMetric", "metric": objects}] if objects else panoptic


def _optim_wrapper(cfg: Config) -> dict[str, Any]:
    optimizer, hook = _section(cfg, "optimizer"), _section(cfg, "optimizer_config")
    found: dict[str, Any] = {"type": "OptimWrapper"}
    if (paramwise := optimizer.pop("paramwise_cfg", None)) is not None:
        found["paramwise_cfg"] = paramwise
    if (constructor := optimizer.pop("constructor", None)) is not None:
        found["constructor"] = constructor
    found["optimizer"] = optimizer
    if hook.get("grad_clip"):
        found["clip_grad"] = hook["grad_clip"]
    if "cumulative_iters" in hook:
        found["accumulative_counts"] = hook["cumulative_iters"]
    if cfg.get("fp16"):
        found |= {"type": "AmpOptimWrapper", "dtype": "float16"}
    return found


def _loop(cfg: Config) -> dict[str, Any]:
    runner = _section(cfg, "runner") or {"max_epochs": cfg.get("total_epochs")}
    by_epoch = "max_iters" not in runner
    length = runner.get("max_epochs") if by_epoch else runner["max_iters"]
    if not isinstance(length, int):
        raise BuildError("runner: needs max_epochs or max_iters")
    found: dict[str, Any] = {"max_epochs" if by_epoch else "max_iters": length}
    if _section(cfg, "data").get("val") is not None or cfg.get("val_dataloader"):
        evaluation = _section(cfg, "evaluation")
        found["val_interval"] = evaluation.get("interval", 1)
        if evaluation.get("start") is not None:
            found["val_begin"] = evaluation["start"]
        if evaluation.get("dynamic_intervals"):
            found["dynamic_intervals"] = evaluation["dynamic_intervals"]
    return found


def _hooks(cfg: Config) -> dict[str, Any]:
    """The checkpoint and logger hooks of 3.x."""
    saving, evaluation = _section(cfg, "checkpoint_config"), _section(cfg, "evaluation")
    best = {key: evaluation[key] for key in ("save_best", "rule") if evaluation.get(key)}
    logger = {"interval": _section(cfg, "log_config").get("interval", 50)}
    return {"checkpoint": {"interval": 1, **saving, **best}, "logger": logger}


def _schedules(lr_config: Any, train_cfg: Config) -> list[dict[str, Any]]:
    """The warm-up, then the policy."""
    cfg = _section({"lr_config": lr_config}, "lr_config")
    policy = cfg.pop("policy", None)
    warmup = cfg.pop("warmup", None)
    length, ratio = cfg.pop("warmup_iters", 0), cfg.pop("warmup_ratio", 0.1)
    in_epochs = bool(cfg.pop("warmup_by_epoch", False))
    counted = {"by_epoch": in_epochs} | ({"convert_to_iter_based": True} if in_epochs else {})
    found: list[dict[str, Any]] = []
    if warmup in ("linear", "constant"):
        kind, factor = (
            ("LinearLR", "start_factor") if warmup == "linear" else ("ConstantLR", "factor")
        )
        end = length if in_epochs else length + 1  # 3.x ends one step before `end`
        found.append({"type": kind, factor: ratio, "begin": 0, "end": end, **counted})
    elif warmup == "exp" and policy == "YOLOX":  # the square, despite its name
        found.append({"type": "QuadraticWarmupLR", "begin": 0, "end": length, **counted})
    elif warmup is not None:
        raise BuildError(f"lr_config: warmup {warmup!r} is not available; use linear or constant")
    if policy == "YOLOX":
        return [*found, _cosine_of_yolox(cfg, length if in_epochs else 0, train_cfg)]
    if policy == "fixed":
        return found
    if policy not in POLICIES:
        raise BuildError(f"lr_config: policy {policy!r}; use one of fixed, {', '.join(POLICIES)}")
    own = {RENAMED.get(key, key): value for key, value in cfg.items() if value is not None}
    own = {"by_epoch": True, **own}
    if policy == "step":
        step = own.pop("step", None)
        if isinstance(step, int):
            return [*found, {"type": "StepLR", "step_size": step, **own}]
        own["milestones"] = step or ()
    return [*found, {"type": POLICIES[policy], **own}]


def _cosine_of_yolox(cfg: Config, begin: int, train_cfg: Config) -> dict[str, Any]:
    """A cosine that ends `num_last_epochs` before the run does, after which the rate stays."""
    if "max_epochs" not in train_cfg:
        raise BuildError("lr_config: policy YOLOX needs a run that counts epochs")
    least = {RENAMED[key]: cfg[key] for key in RENAMED if cfg.get(key) is not None}
    end = train_cfg["max_epochs"] - cfg.get("num_last_epochs", 0)
    each_step = {"convert_to_iter_based": True, **least}
    return {"type": "Version2CosineLR", "begin": begin, "end": end, **each_step}
