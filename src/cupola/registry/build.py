"""`build`: a model from its config."""

import os
from collections.abc import Mapping
from typing import Any

from cupola.registry.budget import PARAMETERS_VARIABLE, Limits, current_budget
from cupola.registry.registries import MODELS
from cupola.registry.scopes import default_scope


def build(
    cfg: Mapping[str, Any],
    *,
    scope: str | None = None,
    max_modules: int | None = None,
    max_parameters: int | None = None,
    **defaults: Any,
) -> Any:
    """Builds the model that a config dict describes; the dict is not changed.

    A whole config (with a `model` key and no `type`) is built from its `model`, in its
    `default_scope`. `model.build_record` records the build. BuildError names the config path.

    max_modules, max_parameters: what the config may ask for [the environment's
    CUPOLA_MAX_MODULES and CUPOLA_MAX_PARAMETERS, or else 10,000 modules, and 2e9 parameters with
    memory or 1e12 without]. A config that asks for more is refused before it takes memory.
    """
    from cupola.registry.charging import build_within

    if "type" not in cfg and "model" in cfg:
        scope = scope or cfg.get("default_scope")
        cfg = cfg["model"]
    with default_scope(scope):
        if current_budget() is not None:  # a constructor builds a part of its own
            return MODELS.build(cfg, **defaults)
        limits = Limits.given(max_modules, max_parameters)
        explicit = max_parameters is not None or bool(os.environ.get(PARAMETERS_VARIABLE))
        device = defaults.get("device", cfg.get("device"))
        return build_within(lambda: MODELS.build(cfg, **defaults), limits, device, explicit)
