"""`build`: a model from its config."""

from collections.abc import Mapping
from typing import Any

from cupola.registry.roots import MODELS


def build(cfg: Mapping[str, Any], **defaults: Any) -> Any:
    """Builds the model that a config dict describes; the dict is not changed."""
    return MODELS.build(cfg, **defaults)
