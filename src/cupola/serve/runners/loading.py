"""Loads predictors at low priority, in a thread that ends before the first request.

On Linux each thread has its own nice value. The loading thread gives way to processes that answer
requests, while the main thread, which runs the model later, keeps its normal priority.
"""

import os
import select
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from cupola.bundles import Bundle
from cupola.bundles.optimizations import AUTO
from cupola.errors import ConfigError
from cupola.runtime import tasks
from cupola.runtime.load import execute, load_shard
from cupola.runtime.predictor import Predictor
from cupola.serve.runners.own_weights import own_weights
from cupola.serve.runners.shared_weights import load_shared, make_private
from cupola.serve.settings.models import ModelPlan

T = TypeVar("T")
Report = Callable[[str], None]
CHECK_INTERVAL = 0.25  # seconds between two checks of the parent pipe


def in_background(work: Callable[[], T], nice: int, parent_pipe: int | None = None) -> T:
    """Runs `work` in a thread with that nice value and returns its result.

    `parent_pipe` is the read end of a pipe: when its other end closes, the result is not needed
    any more, and the process exits even if `work` hangs.
    """
    outcome: list[Any] = []

    def run() -> None:
        if nice:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
        try:
            outcome.append((True, work()))
        except BaseException as error:
            outcome.append((False, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(CHECK_INTERVAL)
        if parent_pipe is not None and select.select([parent_pipe], [], [], 0)[0]:
            os._exit(1)
    good, value = outcome[0]
    if not good:
        raise value
    result: T = value
    return result


def import_plugins(names: Iterable[str]) -> None:
    """Imports the configured plug-ins, also from the working directory, like `python -m`."""
    if "" not in sys.path:
        sys.path.insert(0, "")
    for name in names:
        try:
            import_module(name)
        except Exception as error:
            raise ConfigError(f"plugins: cannot import {name!r}: {error!r}") from error


def optimize(predictor: Predictor, plan: ModelPlan, report: Report, **options: Any) -> Predictor:
    """Executes a loaded model as its plan says, in the thread that will run it.

    The predictor that serves it: with `tta` the one that merges views. Threads that an engine
    starts have the priority of the thread that makes it. Options as
    `cupola.runtime.optimize.selection.optimize` has them.
    """
    if plan.tensor_parallel == 1:
        execute(predictor, Bundle.load(plan.path), plan.optimization, report=report, **options)
    return tasks.find(plan.task).augmented(predictor) if plan.tta else predictor


@contextmanager
def ending_with(parent_pipe: int) -> Iterator[None]:
    """While the block runs, this process exits at once when the other end of the pipe closes."""
    done, ended = os.pipe()

    def wait() -> None:
        if parent_pipe in select.select([parent_pipe, done], [], [])[0]:
            os._exit(1)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.close(ended)
        thread.join()
        os.close(done)


def copied_weights(plan: ModelPlan, bundle: Bundle, folder: Path) -> Path | None:
    """The server's own copy of a bundle's weights, made if missing; None if there is none.

    It is in a folder beside `folder`, which is for weights that runners share. BundleError.
    """
    if "model" not in bundle.config:
        return None
    return own_weights(bundle.weights_path, folder.with_name("sources"), plan.file_name)


def load_predictor(plan: ModelPlan, folder: Path, group: Any = None) -> Predictor:
    """The predictor of a bundle. `folder` is for weights that runners share; beside it are copies
    of the bundles' own weights, for no file that somebody may change is mapped.

    With a `group`, loads this rank's part of the model.
    """
    predictor: Any
    name = plan.file_name
    bundle = Bundle.load(plan.path)
    weights = copied_weights(plan, bundle, folder)
    if group is not None:
        own = Bundle(bundle.path, bundle.config, weights or bundle.weights)
        predictor = load_shard(own, group)
    else:
        predictor = load_shared(plan.path, folder, name, weights, plan.optimization != "eager")
    if "model" in bundle.config and weights is None:  # no space for a copy
        make_private(predictor.model)
    predictor.name, predictor.version = plan.name, plan.version
    predictor.max_image_pixels = plan.max_image_pixels
    given = {
        "reproducible": plan.deterministic,
        "lookup_tokens": plan.lookup_tokens,
    }
    for option, value in given.items():
        if value is not None:
            setattr(predictor, option, value)
    if plan.device != "cpu":
        predictor.to(plan.device)
        if plan.device_memory is not None:
            from cupola.runtime.devices import limit_memory  # loads torch

            limit_memory(predictor.device, plan.device_memory)
    if group is not None and plan.optimization not in AUTO:
        predictor.optimization = plan.optimization
    predictor.prepare()
    found: Predictor = predictor
    return found
