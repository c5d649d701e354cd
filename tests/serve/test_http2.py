"""HTTP/2 of the workers: flow control, draining, and clients that violate the protocol."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cupola.serve.http.server import Server
from cupola.serve.http2 import frames
from cupola.serve.http2.connection import RESETS, STREAM_WINDOW, STREAMS, Http2Connection
from cupola.serve.http2.frames import PREFACE, Code, frame, settings
from cupola.serve.http2.headers import STATUS_200, encode
from cupola.serve.http2.reader import FrameReader
from cupola.serve.http2.stream import Stream
from cupola.serve.settings.settings import Settings
from lazy import LazyModule

h2 = LazyModule("h2.connection")
HEAD = [
    (":method", "POST"), (":scheme", "http"), (":path", "/a"), (":authority", "t"),
    ("content-type", "application/grpc"),
]  # fmt: skip


class Transport:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.data, self.closed, self.reading = b"", False, True

    def get_extra_info(self, name: str) -> Any:
        return None if name == "peercert" else ("192.0.2.1", 80)

    def write(self, data: Any) -> None:
        self.data += bytes(data)

    def writelines(self, pieces: Any) -> None:
        self.data += b"".join(map(bytes, pieces))

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class Handler:
    """Answers with `answer` once the request is complete."""

    expects_more, received, began_at = False, 0, 0.0

    def __init__(self, stream: Stream, answer: bytes) -> None:
        self.stream, self.answer, self.body, self.cancelled = stream, answer, b"", False

    def feed(self, data: bytes) -> None:
        self.body += data
        self.stream.take(len(data))

    def end(self) -> None:
        self.stream.respond(STATUS_200, self.answer, encode([(b"grpc-status", b"0")]))

    def cancel(self) -> None:
        self.cancelled = True

    def time_out(self) -> None: ...

    def drain(self, seconds: float) -> None: ...


class Quiet(Server):
    def connection_closed(self) -> None: ...


class Setup:
    """A connection with a client of the library h2."""

    def __init__(self, answer: bytes = b"answer", greet: bool = True, **changed: Any) -> None:
        self.server = Quiet(Settings(**changed), Path("/nowhere"))
        self.handlers: list[Handler] = []
        self.connection = Http2Connection(self.server, self._open)
        self.transport = Transport()
        self.answer = answer
        self.connection.connection_made(self.transport)
        self.client = h2.H2Connection()
        if greet:
            self.client.initiate_connection()

    def _open(self, stream: Stream, connection: Any) -> Handler:
        self.handlers.append(Handler(stream, self.answer))
        return self.handlers[-1]

    async def exchange(self) -> list[Any]:
        """Passes bytes both ways until there are no more; the client's events."""
        events: list[Any] = []
        while True:
            sent = self.client.data_to_send()
            if sent:
                self.connection.data_received(sent)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            data, self.transport.data = self.transport.data, b""
            if data:
                events += self.client.receive_data(data)
            elif not sent:
                return events

    async def raw(self, data: bytes) -> bytes:
        """What is answered to these bytes after the preface."""
        self.connection.data_received(PREFACE + settings({}) + data)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return self.transport.data

    def request(self, number: int, body: bytes = b"body") -> None:
        self.client.send_headers(number, HEAD)
        self.client.send_data(number, body, end_stream=True)


def kinds(events: list[Any], name: str) -> list[Any]:
    return [event for event in events if type(event).__name__ == name]


async def test_requests_and_responses() -> None:
    setup = Setup()
    for number in (1, 3, 5):
        setup.request(number, b"x" * number)
    events = await setup.exchange()
    assert [handler.body for handler in setup.handlers] == [b"x", b"xxx", b"xxxxx"]
    assert [event.data for event in kinds(events, "DataReceived")] == [b"answer"] * 3
    trailers = kinds(events, "TrailersReceived")
    assert [dict(event.headers)[b"grpc-status"] for event in trailers] == [b"0"] * 3
    assert setup.connection.idle and not setup.transport.closed


@pytest.mark.parametrize("window", [1, 1000, 65535])
async def test_the_clients_windows_are_respected(window: int) -> None:
    setup = Setup(answer=bytes(200_000))
    setup.client.update_settings({4: window})
    await setup.exchange()
    setup.request(1)
    received = 0
    for _ in range(20):
        for event in kinds(await setup.exchange(), "DataReceived"):
            assert len(event.data) <= window
            received += len(event.data)
            setup.client.acknowledge_received_data(event.flow_controlled_length, 1)
    assert received == 200_000 if window > 1000 else received >= 20 * window


async def test_a_large_request_gets_more_window() -> None:
    setup = Setup()
    await setup.exchange()
    setup.client.send_headers(1, HEAD)
    left = 3 * STREAM_WINDOW
    while left:
        size = min(left, setup.client.local_flow_control_window(1), 16_384)
        assert size > 0
        setup.client.send_data(1, bytes(size), end_stream=size == left)
        left -= size
        await setup.exchange()
    assert len(setup.handlers[0].body) == 3 * STREAM_WINDOW


async def test_more_streams_than_allowed_are_refused() -> None:
    setup = Setup()
    await setup.exchange()
    block = setup.client.encoder.encode(HEAD)
    for number in range(1, 2 * STREAMS + 3, 2):
        setup.connection.data_received(frame(frames.HEADERS, 4, number, block))
    await asyncio.sleep(0)
    assert len(setup.handlers) == STREAMS and not setup.transport.closed
    assert frames.reset(2 * STREAMS + 1, Code.REFUSED_STREAM) in setup.transport.data


async def test_draining_takes_every_request_that_is_on_its_way() -> None:
    setup = Setup()
    await setup.exchange()
    setup.server.draining = True
    setup.connection.check_timeouts(setup.connection.active_at)
    await asyncio.sleep(0)
    notice, setup.transport.data = setup.transport.data, b""
    setup.request(1)  # sent before the client has read GOAWAY
    sent = setup.client.data_to_send()
    assert frames.goaway(frames.MAX_WINDOW, Code.NO_ERROR, "draining") in notice
    ping = notice[notice.index(b"draining", notice.index(b"draining") + 1) - 9 :]
    answered = frame(frames.PING, frames.ACK, 0, ping[9:])
    setup.connection.data_received(sent + answered)
    await asyncio.sleep(0)
    assert b"answer" in setup.transport.data and setup.transport.closed
    assert frames.goaway(1, Code.NO_ERROR) in setup.transport.data


async def test_a_client_that_leaves_cancels_its_requests() -> None:
    setup = Setup()
    setup.client.send_headers(1, HEAD)
    setup.client.send_headers(3, HEAD)
    await setup.exchange()
    setup.client.reset_stream(1)
    await setup.exchange()
    assert [handler.cancelled for handler in setup.handlers] == [True, False]
    setup.connection.connection_lost(None)
    assert setup.handlers[1].cancelled and not setup.server.connections


def headers(number: int, *fields: tuple[bytes, bytes]) -> bytes:
    return frames.header_frames(number, encode(fields), 16_384, end=False)


REQUEST = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/")]
BAD: dict[str, tuple[bytes, Code | None]] = {
    "a frame that is too long": (frames.head(0, 0, 1, 2**24 - 1), Code.FRAME_SIZE_ERROR),
    "data before a request": (frame(0, 0, 1, b"x"), Code.PROTOCOL_ERROR),
    "a stream of the server": (headers(2, *REQUEST), Code.PROTOCOL_ERROR),
    "a damaged header": (frame(1, 4, 1, b"\xff\xff\xff\xff\xff\xff"), Code.COMPRESSION_ERROR),
    "a header that never ends":
        (frame(1, 0, 1, b"") + frame(9, 0, 1, bytes(1000)) * 40, Code.ENHANCE_YOUR_CALM),
    "empty continuations": (frame(1, 0, 1, b"") + frame(9, 0, 1), Code.ENHANCE_YOUR_CALM),
    "an interrupted header": (frame(1, 0, 1, b"") + frame(6, 0, 0, bytes(8)), Code.PROTOCOL_ERROR),
    "a large header once unpacked":
        (headers(1, *REQUEST, *[(b"a", bytes(3000))] * 20), Code.ENHANCE_YOUR_CALM),
    "a small PING": (frame(6, 0, 0, b"x"), Code.PROTOCOL_ERROR),
    "an odd SETTINGS": (frame(4, 0, 0, b"x"), Code.FRAME_SIZE_ERROR),
    "a window of 0": (frame(8, 0, 0, bytes(4)), Code.PROTOCOL_ERROR),
    "a window that overflows": (frame(8, 0, 0, b"\x7f\xff\xff\xff"), Code.FLOW_CONTROL_ERROR),
    "a push": (frame(5, 4, 1, bytes(8)), Code.PROTOCOL_ERROR),
    "padding without payload":
        (headers(1, *REQUEST) + frame(0, frames.PADDED, 1, b"\x09x"), Code.PROTOCOL_ERROR),
    "an unknown frame": (frame(77, 0, 0, b"x"), None),
    "a priority": (frame(2, 0, 1, bytes(5)), None),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
async def test_violations_end_the_connection(name: str) -> None:
    setup = Setup(greet=False)
    sent, code = BAD[name]
    answer = await setup.raw(sent)
    assert setup.transport.closed == (code is not None)
    if code is not None:
        assert b"\x07\0\0\0\0\0" in answer and int(code).to_bytes(4, "big") in answer


@pytest.mark.parametrize("fields", [
    REQUEST[:2], [*REQUEST, (b"Upper", b"x")], [*REQUEST, (b"connection", b"close")],
    [(b"a", b"b"), *REQUEST], [*REQUEST, REQUEST[0]], [*REQUEST, (b"x", b"a\r\nb")],
    [*REQUEST, *[(b"a", b"b")] * 300],
])  # fmt: skip
async def test_malformed_requests_are_reset(fields: list[tuple[bytes, bytes]]) -> None:
    setup = Setup(greet=False)
    answer = await setup.raw(headers(1, *fields) + headers(3, *REQUEST))
    assert frames.reset(1, Code.PROTOCOL_ERROR) in answer
    assert len(setup.handlers) == 1 and not setup.transport.closed


async def test_a_header_that_is_too_large_ends_its_stream_alone() -> None:
    setup = Setup()
    setup.client.send_headers(1, HEAD)
    setup.client.send_headers(3, [*HEAD, ("x-large", "b" * 17_000)])
    setup.client.send_headers(5, [*HEAD, ("x-large", "b" * 17_000)], end_stream=True)
    setup.client.send_headers(7, HEAD, end_stream=True)
    events = await setup.exchange()
    reset = {event.stream_id: event.error_code for event in kinds(events, "StreamReset")}
    assert reset == {3: Code.ENHANCE_YOUR_CALM, 5: Code.ENHANCE_YOUR_CALM}
    assert len(setup.handlers) == 2 and not setup.transport.closed
    assert [event.data for event in kinds(events, "DataReceived")] == [b"answer"]


async def test_streams_that_are_reset_at_once_end_the_connection() -> None:
    setup = Setup(greet=False)
    one = headers(1, *REQUEST)
    await setup.raw(b"")
    for number in range(1, 2 * RESETS + 10, 2):
        sent = one[:5] + number.to_bytes(4, "big") + one[9:]
        setup.connection.data_received(sent + frames.reset(number, Code.CANCEL))
    assert setup.transport.closed and len(setup.handlers) <= RESETS + 1


async def test_http_1_is_told_what_this_address_speaks() -> None:
    setup = Setup(greet=False)
    await asyncio.sleep(0)
    setup.connection.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert setup.transport.data.startswith(b"HTTP/1.1 400 ") and setup.transport.closed


async def test_a_client_that_does_not_read_is_not_read_either() -> None:
    setup = Setup()
    setup.connection.pause_writing()
    assert not setup.transport.reading
    setup.connection.resume_writing()
    assert setup.transport.reading


async def test_timeouts() -> None:
    for act, seconds in ((b"", 21), (PREFACE[:10], 21), (PREFACE + b"\0\0\1", 21)):
        setup = Setup(greet=False)
        if act:
            setup.connection.data_received(act)
        setup.connection.check_timeouts(setup.connection.active_at + seconds)
        assert setup.transport.closed, act


@pytest.mark.parametrize("sent", [
    lambda: headers(1, *REQUEST),
    lambda: frame(1, 0, 1, headers(1, *REQUEST)[9:20]) + frame(9, 4, 1, headers(1, *REQUEST)[20:]),
])  # fmt: skip
def test_a_header_that_arrives_byte_by_byte_is_as_old_as_its_first(sent: Any) -> None:
    reader = FrameReader(16_384, lambda: None)
    assert not list(reader.read(PREFACE, 1.0)) and not reader.partial
    *parts, last = sent()
    for second, part in enumerate(parts, start=10):
        assert not list(reader.read(bytes([part]), float(second)))
    assert reader.partial and not reader.in_data and reader.began_at == 10.0
    whole = (frames.HEADERS, headers(1, *REQUEST)[9:])
    assert [(kind, block) for kind, _, _, block in reader.read(bytes([last]), 99.0)] == [whole]
    assert not reader.partial


async def test_a_slow_body_has_a_limit_of_its_own() -> None:
    setup = Setup(greet=False)
    await setup.raw(headers(1, *REQUEST) + frame(0, 0, 1, bytes(100))[:-1])
    later = setup.connection.began_at + 21
    setup.connection.check_timeouts(later)
    assert not setup.transport.closed
    setup.connection.data_received(b"\0" + frame(1, 4, 3, bytes(100))[:-1])
    setup.connection.check_timeouts(later + 1)
    assert setup.transport.closed


@pytest.fixture(scope="module")
def parts() -> Iterator[Callable[[bytes], None]]:
    loop = asyncio.new_event_loop()

    def feed(data: bytes) -> None:
        async def run() -> None:
            setup = Setup(greet=False)
            await setup.raw(data)
            setup.connection.connection_lost(None)

        loop.run_until_complete(run())

    yield feed
    loop.close()


@given(
    st.lists(
        st.tuples(
            st.integers(0, 10), st.integers(0, 255), st.integers(0, 9), st.binary(max_size=40)
        ),
        max_size=8,
    )
)
def test_no_sequence_of_frames_raises(
    parts: Callable[[bytes], None], sent: list[tuple[int, int, int, bytes]]
) -> None:
    parts(b"".join(frame(*one) for one in sent))
