"""What the ingress and the replicas of the models send each other."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Call:
    """A request. `path` as it was sent; the names of the headers are in lower case."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    peer: str = ""


@dataclass(frozen=True)
class Head:
    """The first item of an answer: the whole response, or, if `streamed`, what precedes its body.

    The pieces of a streamed body are the items that follow.
    """

    status: int
    headers: list[tuple[str, str]] = field(default_factory=list)
    content_type: str = "application/json"
    body: bytes = b""
    streamed: bool = False
