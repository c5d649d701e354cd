"""Predictor: a model with its pre- and post-processing, and the interface that serving uses.

A request passes through decode, run and encode. Samples with equal `bucket` may run in one batch.
Models that stream (text, forecasts) also have a StreamEngine, which holds many requests and
advances all of them by one step.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from cupola.errors import InputError
from cupola.files.images import MAX_PIXELS

Arrays = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class TensorSpec:
    """One input or output, as the Open Inference Protocol describes it.

    `datatype` is one of its names ("FP32", "INT64", "UINT8", "BYTES", ...); -1 in `shape` is any
    size. BYTES tensors are numpy object arrays of bytes. With `batch_of_one` an input may have a
    batch axis of size 1 in front, which the predictor removes.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False
    batch_of_one: bool = False


@dataclass(frozen=True)
class Chunk:
    """One piece of a streamed response; `final` marks the last one of a request.

    error: why the request failed, which ends it and no other; `data` is empty then. status: as HTTP
    has it, 400 if the request is at fault.
    """

    request_id: str
    data: Mapping[str, Any]
    final: bool = False
    error: str = ""
    status: int = 500


class StreamEngine(Protocol):
    """Many streamed requests, advanced together step by step."""

    def add(self, request_id: str, sample: Any) -> None:
        """Adds a decoded sample; its first chunk comes with the next step."""

    def cancel(self, request_id: str) -> None:
        """Removes a request; unknown ids are ignored."""

    def step(self) -> list[Chunk]:
        """Advances every request by one step; returns the new chunks."""

    @property
    def active(self) -> int:
        """The number of requests in progress."""


@runtime_checkable
class Resumable(StreamEngine, Protocol):
    """An engine that can continue a request of another one that was lost."""

    def resume(self, request_id: str, sample: Any, written: Sequence[int]) -> None:
        """As `add`, but the tokens `written` have been sent; the next chunk follows them."""


@dataclass
class Predictor(ABC):
    """A model, ready to answer. There is one subclass for each task."""

    name: str
    version: str
    model: Any
    config: Mapping[str, Any] = field(default_factory=dict)
    # How the network is executed, an Execution of runtime/optimize; None: as it was loaded.
    execution: Any = field(default=None, kw_only=True, repr=False)

    # Predictor.load(source, weights=None, ...) is cupola.runtime.load.load_predictor.
    load: ClassVar[Callable[..., "Predictor"]]
    task: ClassVar[str]
    max_batch: ClassVar[int] = 8
    deterministic: ClassVar[bool] = True
    max_image_pixels = MAX_PIXELS  # of one image of a request; a server sets its own

    @property
    @abstractmethod
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The tensors of a request."""

    @property
    @abstractmethod
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The tensors of a response."""

    @property
    def details(self) -> Mapping[str, Any]:
        """What else the server needs to know of the model, as JSON."""
        return {}

    @abstractmethod
    def decode(self, tensors: Mapping[str, Any], parameters: Mapping[str, Any]) -> list[Any]:
        """Samples of one request, one per image, field or prompt; InputError on bad input."""

    def bucket(self, sample: Any) -> Hashable:
        """Samples with equal buckets may run in one batch."""
        return None

    @abstractmethod
    def run(self, samples: Sequence[Any]) -> list[Any]:
        """One prediction per sample."""

    @property
    def is_stream(self) -> bool:
        """Whether the model has a state: `run_frame` continues a stream."""
        return False

    def run_frame(self, sample: Any, state: Any) -> tuple[Any, Any]:
        """The prediction for the next sample of a stream, and the state after it.

        The state is None before the first one. InputError on bad input.
        """
        raise InputError(f"{self.name} has no state")

    @abstractmethod
    def encode(self, predictions: Sequence[Any], parameters: Mapping[str, Any]) -> Arrays:
        """The response's tensors, from the predictions of one request."""

    def to(self, device: Any) -> None:
        """Moves the model to a device of torch; results stay on the CPU.

        InputError if the device is not there, or if the predictor knows the CPU only: those that
        can compute elsewhere have a field `device`.
        """
        if not hasattr(self, "device"):
            if str(device or "cpu") != "cpu":
                raise InputError(f"device {str(device)!r}: a {self.task} model runs on the CPU")
            return
        from cupola.runtime.devices import find_device  # loads torch, which some do without

        self.device = find_device(device)
        self.model.to(self.device)

    def prepare(self) -> None:  # noqa: B027
        """Computes what only some requests need, so that none of them delays the others later.

        Called by a server while it loads the model.
        """

    def open_stream(self) -> StreamEngine | None:
        """An engine for streamed responses; None if the model does not stream."""
        return None
