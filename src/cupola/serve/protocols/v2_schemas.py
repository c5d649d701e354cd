"""The documents of the Open Inference Protocol v2, for responses and for the API description."""

from dataclasses import dataclass, field
from typing import Any, Literal

DataType = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "FP32", "FP64", "BF16", "BYTES",
]  # fmt: skip


@dataclass
class ServerMetadata:
    name: str
    version: str
    extensions: list[str]


@dataclass
class Live:
    live: bool


@dataclass
class Ready:
    ready: bool


@dataclass
class ModelReady:
    name: str
    ready: bool


@dataclass
class TensorMetadata:
    name: str
    datatype: DataType
    shape: list[int]


@dataclass
class ModelMetadata:
    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


@dataclass
class Tensor:
    name: str
    datatype: DataType
    shape: list[int]
    parameters: dict[str, Any] = field(default_factory=dict)
    data: list[Any] = field(default_factory=list)


@dataclass
class RequestedOutput:
    name: str
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass
class InferenceRequest:
    inputs: list[Tensor]
    id: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    outputs: list[RequestedOutput] = field(default_factory=list)


@dataclass
class InferenceResponse:
    model_name: str
    outputs: list[Tensor]
    model_version: str = ""
    id: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass
class Statistics:
    model_stats: list[dict[str, Any]]


@dataclass
class IndexRequest:
    ready: bool = False


@dataclass
class IndexEntry:
    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: str


@dataclass
class LoadParameters:
    bundle: str | None = None
    version: str | None = None
    runners: int | None = None
    unload_dependents: bool = False


@dataclass
class RepositoryRequest:
    parameters: LoadParameters = field(default_factory=LoadParameters)
