"""Which models to serve: finds bundle folders by name, reading only their config.json."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cupola.errors import BundleError, ConfigError, did_you_mean
from cupola.serve.settings.settings import ModelSettings, Settings

SHIPPED = Path(__file__).parents[2] / "bundles" / "shipped"


@dataclass(frozen=True)
class ModelPlan:
    """One model as the zygote starts it. Times in seconds."""

    name: str
    version: str
    path: str
    task: str
    runners: int = 1
    tensor_parallel: int = 1
    optimization: str | None = None
    max_batch: int | None = None
    batch_delay: float = 0.0
    queue_limit: int = 256
    cache: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain data, for the roster."""
        return asdict(self)


def shipped_bundles(root: Path = SHIPPED) -> dict[str, Path]:
    """Name -> folder of the bundles inside the package."""
    return {path.parent.name: path.parent for path in sorted(root.glob("*/config.json"))}


def plan_models(settings: Settings) -> list[ModelPlan]:
    """A plan for each configured model, or for each shipped bundle if none is configured."""
    wanted = settings.models or [
        ModelSettings.model_validate({"bundle": n}) for n in shipped_bundles()
    ]
    plans = [plan_model(model, settings) for model in wanted]
    seen: set[tuple[str, str]] = set()
    for plan in plans:
        if (plan.name, plan.version) in seen:
            raise ConfigError(f"models: {plan.name!r} version {plan.version!r} appears twice")
        seen.add((plan.name, plan.version))
    return plans


def plan_model(model: ModelSettings, settings: Settings) -> ModelPlan:
    """Finds the bundle and fills in what the model leaves to the server's settings."""
    folder = find_bundle(model.bundle)
    config = read_bundle_config(folder)
    wants = model.optimization is not None or model.tensor_parallel > 1
    if wants and config.get("task", "language") != "language":
        raise ConfigError(
            f"models: {model.bundle}: tensor_parallel and optimization are for language models, "
            f"and its task is {config['task']!r}"
        )
    if model.tensor_parallel > 1 and not settings.master_process:
        raise ConfigError(f"models: {model.bundle}: tensor_parallel needs master_process: on")
    return ModelPlan(
        name=model.name or str(config.get("name", folder.name)),
        version=model.version or str(config.get("version", "1")),
        path=str(folder),
        task=str(config.get("task", "")),
        runners=model.runners,
        tensor_parallel=model.tensor_parallel,
        optimization=model.optimization,
        max_batch=model.max_batch or settings.max_batch,
        batch_delay=settings.batch_delay if model.batch_delay is None else model.batch_delay,
        queue_limit=model.queue_limit or settings.queue_limit,
        cache=model.cache,
    )


def find_bundle(source: str) -> Path:
    """The folder of a bundle, absolute, given its folder or shipped name."""
    if (Path(source) / "config.json").is_file():
        return Path(source).resolve()
    shipped = shipped_bundles()
    if source in shipped:
        return shipped[source]
    hint = did_you_mean(source, shipped)
    raise BundleError(f"{source!r} is neither a bundle folder nor a shipped bundle{hint}")


def read_bundle_config(folder: Path) -> dict[str, Any]:
    """config.json of a bundle; BundleError if it is damaged."""
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise BundleError(f"{folder / 'config.json'}: {error}") from None
    if not isinstance(config, dict):
        raise BundleError(f"{folder / 'config.json'}: expected an object")
    return config
