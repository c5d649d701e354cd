"""The messages of all protocols, from their compiled descriptors.

They have a pool of their own: in one process, another library may define messages with the same
names.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from cupola.errors import InputError

INFERENCE = "inference.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"
REFLECTION = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")


@cache
def pool() -> Any:
    """The descriptors."""
    from google.protobuf.descriptor_pb2 import FileDescriptorSet
    from google.protobuf.descriptor_pool import DescriptorPool

    made = DescriptorPool()
    raw = Path(__file__).with_name("protocols.binpb").read_bytes()
    for file in FileDescriptorSet.FromString(raw).file:
        made.Add(file)
    return made


@cache
def message(name: str) -> Any:
    """A message class by its full name, or by its name in the package `inference`."""
    from google.protobuf.message_factory import GetMessageClass

    full = name if "." in name else f"inference.{name}"
    return GetMessageClass(pool().FindMessageTypeByName(full))


def parse(name: str, data: Any) -> Any:
    """A message of that class from bytes; InputError if they are damaged."""
    read, damaged = _reader(name)
    try:
        return read(bytes(data))
    except damaged as error:
        raise InputError(f"the message is not a {name.rpartition('.')[2]}: {error}") from None


@cache
def _reader(name: str) -> tuple[Callable[[bytes], Any], type[Exception]]:
    from google.protobuf.message import DecodeError

    return message(name).FromString, DecodeError
