"""Calls of a server under test over gRPC, with plain messages."""

from typing import Any

import numpy as np
import pytest
from serve_harness import Running

from cupola.serve.grpc.messages import message
from lazy import LazyModule

grpc = LazyModule("grpc")
SERVICE = "/inference.GRPCInferenceService/"


def address_of(server: Running) -> str:
    return str(server.settings["grpc_listen"][0])


def request_of(model: str = "echo", values: Any = (1.0,), **parameters: Any) -> Any:
    request = message("ModelInferRequest")(model_name=model)
    request.inputs.add(name="x", datatype="FP32", shape=[len(values)])
    request.raw_input_contents.append(np.array(values, "<f4").tobytes())
    for name, value in parameters.items():
        kind = {bool: "bool", int: "int64", float: "double", str: "string"}[type(value)]
        setattr(request.parameters[name], f"{kind}_param", value)
    return request


def call(channel: Any, request: Any, method: str = "ModelInfer", **options: Any) -> Any:
    answer = message(f"{method}Response")
    made = channel.unary_unary(
        SERVICE + method,
        request_serializer=lambda m: m if isinstance(m, bytes) else m.SerializeToString(),
        response_deserializer=answer.FromString,
    )
    return made(request, **options)


def failure(channel: Any, request: Any, **options: Any) -> tuple[str, str]:
    """The status and the message of a call that must fail."""
    with pytest.raises(grpc.RpcError) as raised:
        call(channel, request, **options)
    return raised.value.code().name, raised.value.details()
