"""The sections of a training config: what it must have, and what has no effect here."""

from collections.abc import Mapping
from typing import Any

from cupola.errors import BuildError, did_you_mean
from cupola.registry import without_scope
from cupola.train.class_aware import CLASS_AWARE
from cupola.train.hooks import AVERAGES, SWITCHES
from cupola.train.loading import BY_ASPECT
from cupola.train.sequences import is_sequential

Config = Mapping[str, Any]

REQUIRED = ("model", "train_dataloader", "optim_wrapper", "train_cfg")
# What the same section is called in MMDetection 2.x.
VERSION_2 = {
    "train_dataloader": "data",
    "optim_wrapper": "optimizer",
    "train_cfg": "runner",
}
# Hooks whose work the trainer does itself, or that only show something.
DONE_ELSEWHERE = (
    *("IterTimerHook", "LoggerHook", "ParamSchedulerHook", "CheckpointHook", "DistSamplerSeedHook"),
    *("DetVisualizationHook", "RuntimeInfoHook", "EmptyCacheHook", "SyncBuffersHook"),
    *("NumClassCheckHook", "CheckInvalidLossHook", "SyncNormHook", "SetEpochInfoHook"),
    *(*AVERAGES, *SWITCHES),
)
SAMPLERS = ("DefaultSampler", "InfiniteSampler", CLASS_AWARE)


def check_sections(cfg: Config) -> None:
    """Raises BuildError for a section that is missing or no dict."""
    missing = [key for key in REQUIRED if cfg.get(key) is None]
    if missing:
        known = [f"{key} ({VERSION_2[key]} in 2.x)" if key in VERSION_2 else key for key in missing]
        raise BuildError(f"a training config needs {', '.join(known)}")
    for key in (*REQUIRED, "val_dataloader", "default_hooks", "ema"):
        if not isinstance(cfg.get(key) or {}, Mapping):
            raise BuildError(f"{key}: expected a dict, got {cfg[key]!r:.60}")
    for key in ("train_dataloader", "val_dataloader"):
        if cfg.get(key) and "dataset" not in cfg[key]:
            raise BuildError(f"{key}: needs a `dataset`")


def parallel_layout(cfg: Config) -> tuple[int, bool]:
    """The `tensor` and `fsdp` of the section `parallel`. BuildError for what cannot be combined."""
    about = dict(cfg.get("parallel") or {})
    tensor, fsdp = about.pop("tensor", 1), about.pop("fsdp", False)
    for name in about:
        raise BuildError(f"parallel: unknown key {name!r}{did_you_mean(name, ('tensor', 'fsdp'))}")
    if not isinstance(tensor, int) or tensor < 1 or not isinstance(fsdp, bool):
        raise BuildError(
            "parallel: tensor is a number of ranks, and fsdp is True or False; got "
            f"tensor={tensor!r}, fsdp={fsdp!r}"
        )
    if fsdp and tensor > 1:
        raise BuildError("parallel: remove tensor or fsdp, which both split the parameters")
    if fsdp and cfg["optim_wrapper"].get("dtype") == "float16":
        raise BuildError('parallel.fsdp: optim_wrapper.dtype="float16" needs "bfloat16" instead')
    return tensor, fsdp


def kind_of(cfg: Any) -> str:
    """The type that a section names, without its package."""
    return str(without_scope(cfg).get("type", "")) if isinstance(cfg, Mapping) else ""


def without_effect(cfg: Config) -> list[str]:
    """One note for each part of a config that asks for something that is not done."""
    notes = []
    hooks = [*(cfg.get("default_hooks") or {}).values(), *(cfg.get("custom_hooks") or ())]
    if foreign := sorted({kind_of(hook) for hook in hooks} - {"", *DONE_ELSEWHERE}):
        notes.append(f"hooks that are not run: {', '.join(foreign)}")
    sampler = kind_of(cfg["train_dataloader"].get("sampler"))
    if sampler and sampler not in SAMPLERS and not is_sequential({"type": sampler}):
        notes.append(f"sampler {sampler}: images are shuffled instead")
    batches = kind_of(cfg["train_dataloader"].get("batch_sampler"))
    if batches and batches != BY_ASPECT:
        notes.append(f"batch_sampler {batches}: batches are taken in the order of the images")
    return notes


def class_counts(model: Any, dataset: Any) -> str | None:
    """A note if the data has fewer classes than the model; BuildError if it has more."""
    if getattr(model, "is_class_agnostic", False):
        return None
    where, count = "model.roi_head.bbox_head", getattr(model, "num_classes", None)
    if hasattr(model, "bbox_head"):
        where, count = "model.bbox_head", getattr(model.bbox_head, "num_classes", None)
    names = getattr(dataset, "names", None)
    if count is None or not names or len(names) == count:
        return None
    text = f"the data has {len(names)} classes, {where}.num_classes is {count}"
    if len(names) > count:
        raise BuildError(f"{text}; set it to {len(names)}, or name the classes in metainfo")
    return None if hasattr(model, "text_search") else text  # whose classes are words


def scaled_rate(cfg: Config, batch: int) -> float:
    """The factor of the learning rate that `auto_scale_lr` asks for; `batch` is the whole batch."""
    asked = cfg.get("auto_scale_lr") or {}
    if not asked.get("enable", False):
        return 1.0
    if not asked.get("base_batch_size"):
        raise BuildError("auto_scale_lr: needs base_batch_size, the batch that lr is meant for")
    return float(batch / asked["base_batch_size"])
