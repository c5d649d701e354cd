"""`build`: a model from its config."""

from collections.abc import Mapping
from typing import Any

from cupola.registry.registries import MODELS
from cupola.registry.scopes import default_scope


def build(cfg: Mapping[str, Any], *, scope: str | None = None, **defaults: Any) -> Any:
    """Builds the model that a config dict describes; the dict is not changed.

    A whole config (with a `model` key and no `type`) is built from its `model`, in its
    `default_scope`. `model.build_record` records the build. BuildError names the config path.
    """
    if "type" not in cfg and "model" in cfg:
        scope = scope or cfg.get("default_scope")
        cfg = cfg["model"]
    with default_scope(scope):
        return MODELS.build(cfg, **defaults)
