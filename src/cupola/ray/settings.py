"""The settings of the server in each replica; checking them needs no ray."""

from collections.abc import Mapping, Sequence
from typing import Any

from cupola.serve.settings.file import load_settings
from cupola.serve.settings.settings import Settings

Model = str | Mapping[str, Any]


def server_settings(
    bundle: Model | Sequence[Model] | None,
    model_dir: str | None,
    settings: Mapping[str, Any] | None,
    actor: Mapping[str, Any],
) -> Settings:
    """The settings of a replica; ConfigError if they are invalid."""
    values = dict(settings or {})
    given = [bundle] if isinstance(bundle, str | Mapping) else list(bundle or [])
    device = {"device": "cuda"} if actor.get("num_gpus") else {}
    models = [{**device, **({"bundle": each} if isinstance(each, str) else each)} for each in given]
    if models:
        values["models"] = models
    if model_dir is not None:
        values["model_dir"] = model_dir
        values["model_defaults"] = {**device, **values.get("model_defaults", {})}
    threads = max(1, int(actor.get("num_cpus") or 1))
    return load_settings(None, {"compute_threads": threads, **values}, {})
