"""Predictor: a built model with its pre- and post-processing, and the contract that serving uses.

A request travels decode -> run -> encode. Samples whose `bucket` is equal may run as one batch.
Models that answer piece by piece (text, forecasts) also offer a StreamEngine, which holds many
requests at once and advances all of them by one step.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

Arrays = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class TensorSpec:
    """One input or output, in the words of the Open Inference Protocol.

    `datatype` is one of its names ("FP32", "INT64", "UINT8", "BYTES", ...); -1 in `shape` is any
    size. BYTES tensors are numpy object arrays of bytes.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True)
class Chunk:
    """One piece of a streamed answer; `final` on the last piece of a request."""

    request_id: str
    data: Mapping[str, Any]
    final: bool = False


class StreamEngine(Protocol):
    """Many streamed requests, advanced together, one step at a time."""

    def add(self, request_id: str, sample: Any) -> None:
        """Takes a decoded sample in; its first chunk comes with the next step."""

    def cancel(self, request_id: str) -> None:
        """Forgets a request whose client has left; unknown ids are ignored."""

    def step(self) -> list[Chunk]:
        """Advances every request once; returns the new chunks."""

    @property
    def active(self) -> int:
        """How many requests are under way."""


@runtime_checkable
class Resumable(StreamEngine, Protocol):
    """An engine that can go on from what another one had said before it was lost."""

    def resume(self, request_id: str, sample: Any, written: Sequence[int]) -> None:
        """As `add`, but the tokens `written` are said already; the next chunk follows them."""


@dataclass
class Predictor(ABC):
    """A model, ready to answer. There is one subclass for each task."""

    name: str
    version: str
    model: Any
    config: Mapping[str, Any] = field(default_factory=dict)

    # Predictor.load(source, weights=None, ...): see cupola.runtime.load.load_predictor.
    load: ClassVar[Callable[..., "Predictor"]]
    task: ClassVar[str]
    max_batch: ClassVar[int] = 8
    deterministic: ClassVar[bool] = True

    @property
    @abstractmethod
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What a request holds."""

    @property
    @abstractmethod
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What an answer holds."""

    @abstractmethod
    def decode(self, tensors: Mapping[str, Any], parameters: Mapping[str, Any]) -> list[Any]:
        """Samples of one request, one per image, field or prompt; InputError on bad input."""

    def bucket(self, sample: Any) -> Hashable:
        """Samples with equal buckets may run in one batch."""
        return None

    @abstractmethod
    def run(self, samples: Sequence[Any]) -> list[Any]:
        """One prediction per sample."""

    @abstractmethod
    def encode(self, predictions: Sequence[Any], parameters: Mapping[str, Any]) -> Arrays:
        """The answer's tensors for the predictions of one request."""

    def open_stream(self) -> StreamEngine | None:
        """An engine for streamed answers, or None if this model answers in one piece."""
        return None
