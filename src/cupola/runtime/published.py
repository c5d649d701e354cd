"""From a published training config to the config of a bundle: what a model needs in use."""

from collections.abc import Mapping
from typing import Any

from cupola.errors import ConfigError
from cupola.registry import MODELS
from cupola.runtime import tasks
from cupola.runtime.building import without_pretrained


def bundle_config(cfg: Mapping[str, Any], name: str, **options: Any) -> dict[str, Any]:
    """config.json of a bundle for the model of a training config; `cfg` is not changed.

    `options` are those of `cupola bundle` (`means`, `stds`, ...). Raises ConfigError for a model
    without a task, and where something needed is missing.
    """
    if "model" not in cfg:
        raise ConfigError(f"{name}: holds no `model`")
    model = without_pretrained(cfg["model"])
    task = tasks.task_of(MODELS.get(model["type"]))
    if task is None:
        raise ConfigError(
            f"{name}: no task is known for {model['type']}; models with one: {tasks.model_names()}"
        )
    settings = task.bundle_settings(cfg, model, options)
    return {"name": name, "version": "1", "task": task.name, "model": model, **settings}
