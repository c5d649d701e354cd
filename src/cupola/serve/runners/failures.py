"""What a failed request is answered, and which failures end the process."""

import sys

from cupola.errors import EngineError, InputError
from cupola.serve.runners.sequences import TooManySequencesError


def answer_to(error: Exception) -> tuple[int, str]:
    """The HTTP status and the text for an error of a model or of its input."""
    if isinstance(error, TooManySequencesError):
        return 429, str(error)
    if isinstance(error, InputError):
        return 400, str(error)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        torch.cuda.empty_cache()
        return 503, (
            "the GPU has not enough memory left for this request; send fewer or smaller samples, "
            "or lower the model's max_batch or raise its device_memory"
        )
    return 500, f"{type(error).__name__}: {error}"


def end_without_device(error: Exception) -> None:
    """Raises EngineError after an error that leaves the process without its GPU.

    Every later operator would fail, so the process ends, and its requests are replayed on another.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.AcceleratorError):
        raise EngineError(f"the GPU has failed: {error}") from error
