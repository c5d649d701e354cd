"""The hooks of published configs that change training: the moving average and mode switches.

Everything here is a function of the epoch, so that a resumed run needs no state of a hook.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cupola.errors import BuildError
from cupola.registry import without_scope

Config = Mapping[str, Any]
AVERAGES = ("EMAHook", "ExpMomentumEMAHook", "LinearMomentumEMAHook")
SWITCHES = ("PipelineSwitchHook", "YOLOXModeSwitchHook")
MIXING = ("Mosaic", "RandomAffine", "MixUp")  # what YOLOXModeSwitchHook turns off
UNUSED = ("type", "priority", "strict_load", "resume_from", "evaluation")


def _hooks(cfg: Config, kinds: Sequence[str]) -> list[dict[str, Any]]:
    plain = [without_scope(hook) for hook in cfg.get("custom_hooks") or ()]
    return [hook for hook in plain if hook.get("type") in kinds]


def published_average(cfg: Config, steps_per_epoch: int) -> dict[str, Any] | None:
    """The `ema` section of a config, or the one that its EMA hook describes; None without either.

    ExpMomentumEMAHook and LinearMomentumEMAHook are those of MMDetection 2.x, which average the
    buffers, too.
    """
    if cfg.get("ema"):
        return without_scope(cfg["ema"])
    for hook in _hooks(cfg, AVERAGES):
        about = {key: value for key, value in hook.items() if key not in UNUSED}
        if hook["type"] == "EMAHook":
            # The first one counts as 1 in MMEngine, which requires one of the two to be 0.
            step, epoch = about.pop("begin_iter", 0), about.pop("begin_epoch", 0)
            begin = max(step - 1, 0) + max(epoch - 1, 0) * steps_per_epoch
            kind = about.pop("ema_type", "ExponentialMovingAverage")
            return {**about, "type": kind, "begin": begin}
        about["update_buffers"] = not about.pop("skip_buffers", False)
        if hook["type"] == "LinearMomentumEMAHook":
            about.setdefault("gamma", about.pop("warm_up", 100))
            return {**about, "type": "MomentumAnnealingEMA"}
        about["gamma"] = about.pop("total_iter", 2000)
        return {**about, "type": "ExpMomentumEMA"}
    return None


@dataclass(frozen=True)
class Switch:
    """From `epoch` on: another pipeline, or transforms that are skipped and an L1 loss."""

    epoch: int
    pipeline: Sequence[Config] | None = None
    skipped: Sequence[str] = ()

    def apply(self, dataset: Any, model: Any) -> None:
        """Changes the dataset, and the model's head for YOLOX."""
        if self.pipeline is not None:
            _method(dataset, "set_pipeline", "PipelineSwitchHook")(self.pipeline)
            return
        _method(dataset, "skip_transforms", "YOLOXModeSwitchHook")(self.skipped)
        if not hasattr(getattr(model, "bbox_head", None), "use_l1"):
            raise BuildError("YOLOXModeSwitchHook: the model has no head with use_l1")
        model.bbox_head.use_l1 = True


def _method(dataset: Any, name: str, hook: str) -> Any:
    if not hasattr(dataset, name):
        raise BuildError(f"{hook}: {type(dataset).__name__} has no pipeline to change")
    return getattr(dataset, name)


def published_switches(cfg: Config, epochs: int) -> list[Switch]:
    """The mode switches that a config's hooks describe, in a run of so many epochs.

    As the original, YOLOXModeSwitchHook switches one epoch earlier than `num_last_epochs` says.
    """
    found = []
    for hook in _hooks(cfg, SWITCHES):
        if hook["type"] == "PipelineSwitchHook":
            missing = [key for key in ("switch_epoch", "switch_pipeline") if key not in hook]
            if missing:
                raise BuildError(f"PipelineSwitchHook: needs {' and '.join(missing)}")
            found.append(Switch(hook["switch_epoch"], hook["switch_pipeline"]))
        else:
            last = hook.get("num_last_epochs", 15)
            found.append(
                Switch(max(0, epochs - last - 1), skipped=hook.get("skip_type_keys", MIXING))
            )
    return found
