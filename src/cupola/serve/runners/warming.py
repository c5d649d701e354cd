"""What the zygote does before it forks the first runner."""

import gc
import os
import sys
import threading
from contextlib import suppress

from cupola.bundles import Bundle
from cupola.errors import ConfigError, CupolaError
from cupola.runtime.load import warm
from cupola.serve.generation import Generation
from cupola.serve.runners.loading import copied_weights, import_plugins
from cupola.serve.telemetry.exporting import preload


def warm_up(generation: Generation) -> None:
    """Imports everything that runners need, so that they share its pages, and copies the weights.

    Files are read, hashed and written without the interpreter's lock, so both take little longer
    than the imports alone. The thread for the files ends before the first fork. ConfigError.
    """
    copying = threading.Thread(target=copy_weights, args=[generation])
    copying.start()
    try:
        _import(generation)
    finally:
        copying.join()


def copy_weights(generation: Generation) -> None:
    """Makes the server's own copies of weights; what fails is reported by the runner, later."""
    for plan in generation.plans:
        with suppress(CupolaError, OSError):
            copied_weights(plan, Bundle.load(plan.path), generation.home / "weights")


def _import(generation: Generation) -> None:
    # A plug-in that asks whether there is a GPU must not begin to use it.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    import_plugins(generation.settings.plugins)
    warm({plan.task for plan in generation.plans})
    gc.freeze()  # what runners share is not looked at, and so not copied, when they collect
    if generation.settings.otel_endpoint:
        preload()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        raise ConfigError(
            "plugins: one of them has used CUDA while it was imported, and the processes that "
            "are forked from here could not use it; use it in the functions of the plug-in"
        )
