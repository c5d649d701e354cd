"""Where the images of a ModelInferRequest are, without parsing it."""

from collections.abc import Iterator

from cupola.serve.grpc import wire


def image_spans(data: wire.Data) -> Iterator[tuple[int, int]]:
    """Where the elements of the BYTES tensors of a message are, as far as it can be read."""
    raw, tensors = [], []
    for number, start, end in wire.fields(data, 0, len(data)):
        if number == 7:
            raw.append((start, end))
        elif number == 5:
            tensors.append((start, end))
    for place, (start, end) in enumerate(tensors):
        parts = {number: span for number, *span in wire.fields(data, start, end)}
        if 2 not in parts or bytes(data[slice(*parts[2])]) != b"BYTES":
            continue
        if place < len(raw):
            yield from _elements(data, *raw[place])
        elif 5 in parts:
            yield from ((s, e) for number, s, e in wire.fields(data, *parts[5]) if number == 8)


def _elements(data: wire.Data, at: int, end: int) -> Iterator[tuple[int, int]]:
    while at + 4 <= end:
        size = int.from_bytes(data[at : at + 4], "little")
        yield at + 4, min(at + 4 + size, end)
        at += 4 + size
