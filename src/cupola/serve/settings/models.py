"""Which models to serve: finds their bundles, reading only config.json."""

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cupola.bundles import Bundle, hub, shipped_names
from cupola.bundles import optimizations as names
from cupola.bundles.bundle import read_folder
from cupola.errors import BundleError, ConfigError, InputError
from cupola.serve.settings.model import ModelSettings
from cupola.serve.settings.model_dir import models_of_folder
from cupola.serve.settings.settings import Settings

MAX_NAME = 100
LANGUAGE = ("tensor_parallel", "deterministic", "lookup_tokens")  # settings


@dataclass(frozen=True)
class ModelPlan:
    """One model as the zygote starts it. Times in seconds."""

    name: str
    version: str
    path: str
    task: str
    runners: int = 1
    device: str = "cpu"
    device_memory: int | None = None
    tensor_parallel: int = 1
    optimization: str = "auto"
    tta: bool = False
    deterministic: bool | None = None
    lookup_tokens: int | None = None
    max_batch: int | None = None
    batch_delay: float = 0.0
    queue_limit: int = 256
    max_image_pixels: int = 24_000_000
    cache: bool = False
    runner_max_requests: int | None = None
    runner_memory_limit: int | None = None
    load: int = 0  # the number of the request that loaded it; 0: it is in the settings

    @property
    def file_name(self) -> str:
        """The name of the model's files in the runtime directory; no two plans have the same."""
        parts = [self.name, self.version, *([str(self.load)] if self.load else [])]
        return "@".join(quote(part, safe="") for part in parts)

    def to_json(self) -> dict[str, Any]:
        """Plain data, for the roster."""
        return asdict(self)


def plan_models(settings: Settings, offline: bool = False) -> list[ModelPlan]:
    """A plan for each configured model, for each one of `model_dir`, or for each shipped bundle.

    With `offline`, or the setting of that name, models on the hub must be in the cache.
    """
    if settings.model_dir is not None:
        wanted = models_of_folder(settings)
    else:
        wanted = settings.models or [
            ModelSettings.model_validate({"bundle": name}) for name in shipped_names()
        ]
    plans = [plan_model(model, settings, offline) for model in wanted]
    seen: set[tuple[str, str]] = set()
    for plan in plans:
        if (plan.name, plan.version) in seen:
            raise ConfigError(f"models: {plan.name!r} version {plan.version!r} appears twice")
        seen.add((plan.name, plan.version))
    return plans


def plan_model(model: ModelSettings, settings: Settings, offline: bool = False) -> ModelPlan:
    """Finds the bundle and fills in what the model leaves to the server's settings."""
    bundle = open_bundle(model.bundle, offline or settings.offline)
    given = [name for name in LANGUAGE if getattr(model, name) not in (None, 1)]
    if given and bundle.task != "language":
        raise ConfigError(
            f"models: {model.bundle}: {' and '.join(given)}: only for language models, and its "
            f"task is {bundle.task!r}"
        )
    if model.tta and bundle.task != "detection":
        raise ConfigError(
            f"models: {model.bundle}: tta is for detectors, and its task is {bundle.task!r}"
        )
    if model.tensor_parallel > 1 and model.device != "cpu":
        raise ConfigError(f"models: {model.bundle}: tensor_parallel is for the CPU only")
    if model.device_memory is not None and not model.device.startswith("cuda"):
        raise ConfigError(
            f"models: {model.bundle}: device_memory is for CUDA, and the device is {model.device!r}"
        )
    if model.tensor_parallel > 1 and not settings.master_process:
        raise ConfigError(f"models: {model.bundle}: tensor_parallel needs master_process: on")
    return ModelPlan(
        name=_checked("name", model.name or bundle.name),
        version=_checked("version", model.version or bundle.version),
        path=str(bundle.path),
        task=bundle.task,
        runners=model.runners,
        device=model.device,
        device_memory=model.device_memory,
        tensor_parallel=model.tensor_parallel,
        optimization=_optimization(model, bundle.task),
        tta=model.tta,
        deterministic=model.deterministic,
        lookup_tokens=model.lookup_tokens,
        max_batch=model.max_batch or settings.max_batch,
        batch_delay=settings.batch_delay if model.batch_delay is None else model.batch_delay,
        queue_limit=model.queue_limit or settings.queue_limit,
        cache=model.cache,
        max_image_pixels=model.max_image_pixels or settings.max_image_pixels,
        runner_max_requests=model.runner_max_requests or settings.runner_max_requests,
        runner_memory_limit=model.runner_memory_limit or settings.runner_memory_limit,
    )


def _optimization(model: ModelSettings, task: str) -> str:
    """The name as the task spells it; ConfigError."""
    try:
        return names.checked(model.optimization, task)
    except InputError as error:
        raise ConfigError(f"models: {model.bundle}: {error}") from None


def _checked(kind: str, text: str) -> str:
    """A model's name or version, from which file names are made; ConfigError."""
    if not 0 < len(quote(text, safe="")) <= MAX_NAME:
        raise ConfigError(
            f"models: {kind} {text[:40]!r}: expected 1 to {MAX_NAME} characters as in a URL"
        )
    return text


def open_bundle(source: str, offline: bool = False) -> Bundle:
    """A bundle by shipped name, folder or hf:// id, with the absolute path of its folder."""
    if not hub.is_hub_id(source):
        return read_folder(Bundle.load(source).path.resolve())
    name = hub.parse(source).name
    return read_folder(download(source, offline), name)


def download(source: str, offline: bool) -> Path:
    """The folder of an hf:// id, from another process: see hub.py. BundleError."""
    command = [sys.executable, "-c", "from cupola.bundles.hub import main; main()", source]
    done = subprocess.run(
        [*command, "--offline"] if offline else command, stdout=subprocess.PIPE, text=True
    )
    try:
        found = json.loads(done.stdout)
    except ValueError:
        raise BundleError(f"{source}: the download ended with code {done.returncode}") from None
    if "error" in found:
        raise BundleError(found["error"])
    return Path(found["folder"])
