"""The model that `cupola explain` shows: of a config or of a bundle, with or without weights."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cupola.bundles import Bundle


def build_model(
    source: str, bundle: "Bundle | None", overrides: list[str], section: str | None = None
) -> Any:
    """The model of a config file, or of a bundle, without weights."""
    from cupola.config import Config
    from cupola.errors import ConfigError
    from cupola.models.afno.published import is_published, published_config
    from cupola.runtime.building import without_pretrained

    if bundle is not None:
        cfg = Config({"model": without_pretrained(bundle.model_config)}).override(overrides)
        return build_or_outline(cfg.model)
    cfg = Config.load(source)
    if section is not None or is_published(cfg):
        cfg = Config(published_config(cfg.to_dict(), section, source), Path(source))
    cfg = cfg.override(overrides)
    if "model" not in cfg and "type" not in cfg:
        raise ConfigError(f"{source}: there is no model in this config")
    return build_or_outline(cfg)


def load_model(
    source: str,
    bundle: "Bundle | None",
    overrides: list[str],
    section: str | None = None,
    weights: str | None = None,
    offline: bool = False,
) -> tuple[Any, dict[str, str] | None]:
    """The model with the weights of its bundle or of a checkpoint, and which key went where.

    A bundle whose config is overridden has no weights.
    """
    from cupola import load_weights
    from cupola.bundles.downloads import find_checkpoint

    checkpoint = None if weights is None else find_checkpoint(weights, offline)
    model = build_model(source, bundle, overrides, section)
    if checkpoint is None and bundle is not None and not overrides:
        checkpoint = bundle.weights_path
    if checkpoint is None:
        return model, None
    return model, load_weights(model, checkpoint, assign=True).origins


def build_or_outline(cfg: Any) -> Any:
    """The model of a config; without memory where it has more parameters than memory is for."""
    import cupola
    from cupola import nn
    from cupola.registry.budget import BudgetError

    try:
        return cupola.build(cfg)
    except BudgetError:
        with nn.on_meta():
            return cupola.build(cfg)
