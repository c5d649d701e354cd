"""The messages of all protocols, from their compiled descriptors.

They have a pool of their own: in one process, another library may define messages with the same
names.
"""

from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

INFERENCE = "inference.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"
REFLECTION = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")


@cache
def pool() -> DescriptorPool:
    """The descriptors."""
    made = DescriptorPool()
    raw = Path(__file__).with_name("protocols.binpb").read_bytes()
    for file in FileDescriptorSet.FromString(raw).file:
        made.Add(file)
    return made


@cache
def message(name: str) -> Any:
    """A message class by its full name, or by its name in the package `inference`."""
    full = name if "." in name else f"inference.{name}"
    return GetMessageClass(pool().FindMessageTypeByName(full))
