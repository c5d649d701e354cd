"""One HTTP/2 connection of a client, on a socket that the worker accepted.

A draining worker first sends GOAWAY without a limit, and a PING. Once the client has answered it,
every request that it sent before it knew has arrived; then GOAWAY names the last of them, and the
connection is closed after their responses. So no request is lost.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from cupola.serve.http.forwarded import name_of
from cupola.serve.http.server import Server
from cupola.serve.http2 import frames
from cupola.serve.http2.frames import Code, Http2Error
from cupola.serve.http2.headers import HeaderDecoder
from cupola.serve.http2.reader import FRAME, FrameReader, NotHttp2Error
from cupola.serve.http2.stream import Stream, StreamHandler
from cupola.serve.http2.writer import FrameWriter
from cupola.serve.tls import subject_of

STREAMS = 128  # that a client may have open at a time
STREAM_WINDOW = 1024**2  # bytes of one request that may be on their way
WINDOW = 16 * 1024**2  # bytes of all requests of a connection
HEADER = 16 * 1024  # bytes of the largest header, as other servers of gRPC
RESETS = 10_000  # streams that a client may reset in RESET_TIME seconds
RESET_TIME = 10.0
_DRAINING = b"draining"  # the data of the PING
Open = Callable[[Stream, "Http2Connection"], StreamHandler]


class Http2Connection(asyncio.Protocol):
    """One client. `open_stream` makes the handler of a request; see Connection for the others."""

    transport: asyncio.Transport

    def __init__(
        self,
        server: Server,
        open_stream: Open,
        peer: str = "",
        client: str = "",
        operations: bool = True,
    ) -> None:
        self.server, self.peer, self.client, self.operations = server, peer, client, operations
        self.subject = ""  # of the client's certificate
        self._open_stream = open_stream
        self.writer = FrameWriter(server.loop)
        self.writable = self.writer.writable
        self.streams: dict[int, Stream] = {}
        self._stream_window = frames.DEFAULT_WINDOW  # of new streams, as the client sets it
        self._receive_window, self._consumed = WINDOW, 0
        self._max_header = min(server.settings.max_header, HEADER)
        self._headers = HeaderDecoder(self._max_header)
        self._reader = FrameReader(self._max_header, self._greet)
        self._last = 0  # the newest stream
        self.closing = self._last_announced = False
        self._leaving_since = 0.0  # when the client was asked to open no more streams here
        self._served = 0
        self._resets, self._resets_since = 0, 0.0
        self.active_at = time.monotonic()
        self.blocked_at = 0.0
        self.lingering_since = 0.0

    # ---- asyncio.Protocol

    def connection_made(self, transport: Any) -> None:
        self.transport = self.writer.transport = transport
        self.writable.set()
        own = transport.get_extra_info("sockname")
        self.peer = self.peer or name_of(transport.get_extra_info("peername"), own)
        self.subject = subject_of(transport)
        self.server.connections.add(self)

    def _greet(self) -> None:
        """Sends our preface, which is settings, once the client's has arrived."""
        ours = {
            frames.MAX_STREAMS: STREAMS, frames.INITIAL_WINDOW: STREAM_WINDOW,
            frames.MAX_FRAME: FRAME, frames.MAX_HEADER_LIST: self._max_header,
        }  # fmt: skip
        self.writer.put(frames.settings(ours))
        self.writer.put(frames.window_update(0, WINDOW - frames.DEFAULT_WINDOW))

    def connection_lost(self, exc: Exception | None) -> None:
        self.closing = True
        self.writable.set()
        self.server.connections.discard(self)
        self.server.forget(self.client)
        streams, self.streams = list(self.streams.values()), {}
        for stream in streams:
            stream.abandon()
        self.writer.forget_blocked()
        self.server.connection_closed()

    def data_received(self, data: bytes) -> None:
        if self.closing:
            return
        now = time.monotonic()
        try:
            for kind, flags, number, payload in self._reader.read(data, now):
                self._on_frame(kind, flags, number, payload, now)
                if self.transport.is_closing():
                    return
        except Http2Error as error:
            self._fail(error.code, error.message)
        except NotHttp2Error:
            self._refuse_http1()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self.blocked_at = time.monotonic()
        self.writable.clear()
        self.transport.pause_reading()  # or what it asks for would pile up

    def resume_writing(self) -> None:
        self.blocked_at = 0.0
        self.writable.set()
        self.transport.resume_reading()

    # ---- frames

    def _refuse_http1(self) -> None:
        text = b"this address speaks gRPC, over HTTP/2\n"
        start = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain\r\n"
        self.writer.put(start + b"Content-Length: %d\r\n\r\n" % len(text) + text)
        self._close()

    def _on_frame(self, kind: int, flags: int, number: int, payload: bytes, now: float) -> None:
        try:
            if kind == frames.DATA:
                self._on_data(number, flags, payload)
            elif kind == frames.HEADERS:
                self._on_headers(number, flags, payload, now)
            elif kind in _HANDLERS:
                _HANDLERS[kind](self, number, flags, payload)
        except Http2Error as error:
            if not error.stream:
                raise
            self._reset(error.stream, error.code)

    def _on_headers(self, number: int, flags: int, block: bytes, now: float) -> None:
        """A new request, or the trailers of one."""
        if number <= self._last:
            self._headers.decode(block)
            self._headers.forget()
            stream = self.streams.get(number)
            if stream is not None:
                if not flags & frames.END_STREAM or stream.received_end:
                    raise Http2Error(Code.PROTOCOL_ERROR, "a second header", number)
                self._on_end(stream)
            return
        self._last = number
        head = self._headers.head(block, number)
        if self._last_announced or len(self.streams) >= STREAMS:
            raise Http2Error(Code.REFUSED_STREAM, "too many streams", number)
        stream = Stream(self, number, head, (self._stream_window, STREAM_WINDOW), now)
        self.streams[number] = stream
        self._served += 1
        stream.handler = self._open_stream(stream, self)
        if flags & frames.END_STREAM:
            self._on_end(stream)

    def _on_data(self, number: int, flags: int, payload: bytes) -> None:
        if number == 0 or number > self._last:
            raise Http2Error(Code.PROTOCOL_ERROR, f"DATA on stream {number}")
        size = len(payload)
        self._receive_window -= size
        if self._receive_window < 0:
            raise Http2Error(Code.FLOW_CONTROL_ERROR, "more data than the connection allows")
        self._consumed += size
        if self._consumed > WINDOW // 2:
            self.writer.put(frames.window_update(0, self._consumed))
            self._receive_window += self._consumed
            self._consumed = 0
        stream = self.streams.get(number)
        if stream is None:  # its response is complete, or it was reset
            return
        if stream.received_end:
            raise Http2Error(Code.STREAM_CLOSED, "DATA after the end", number)
        stream.receive_window -= size
        if stream.receive_window < 0:
            raise Http2Error(Code.FLOW_CONTROL_ERROR, "more data than the stream allows", number)
        data = frames.unpadded(flags, payload) if flags & frames.PADDED else payload
        if len(data) < size:
            self.credit(stream, size - len(data))
        if data:
            stream.handler.feed(data)
        elif not flags & frames.END_STREAM:
            self._count_waste()
        if flags & frames.END_STREAM and not stream.closed:
            self._on_end(stream)

    def _on_end(self, stream: Stream) -> None:
        stream.received_end = True
        stream.handler.end()

    def _on_reset(self, number: int, flags: int, payload: bytes) -> None:
        if number == 0 or number > self._last or len(payload) != 4:
            raise Http2Error(Code.PROTOCOL_ERROR, f"RST_STREAM on stream {number}")
        stream = self.streams.pop(number, None)
        if stream is not None:
            self._count_waste()
            stream.abandon()
            self._after_stream()

    def _count_waste(self) -> None:
        """Limits what costs the server more than the client, such as streams that are reset."""
        now = time.monotonic()
        if now - self._resets_since > RESET_TIME:
            self._resets, self._resets_since = 0, now
        self._resets += 1
        if self._resets > RESETS:
            raise Http2Error(Code.ENHANCE_YOUR_CALM, "too many streams were reset")

    def _on_settings(self, number: int, flags: int, payload: bytes) -> None:
        if number:
            raise Http2Error(Code.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & frames.ACK:
            return
        for name, value in frames.read_settings(payload):
            if name == frames.INITIAL_WINDOW:
                change, self._stream_window = value - self._stream_window, value
                for stream in list(self.streams.values()):
                    if not stream.open_window(change):
                        raise Http2Error(Code.FLOW_CONTROL_ERROR, "the window is too large")
            elif name == frames.MAX_FRAME:
                self.writer.max_frame = value
        self.writer.put(frames.frame(frames.SETTINGS, frames.ACK, 0))
        self.writer.unblock()

    def _on_ping(self, number: int, flags: int, payload: bytes) -> None:
        if number or len(payload) != 8:
            raise Http2Error(Code.PROTOCOL_ERROR, "malformed PING")
        if not flags & frames.ACK:
            self.writer.put(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif payload == _DRAINING and self._leaving_since and not self._last_announced:
            self._last_announced = True
            self.writer.put(frames.goaway(self._last, Code.NO_ERROR))
            self._after_stream()

    def _on_goaway(self, number: int, flags: int, payload: bytes) -> None:
        """The client opens no more streams; it closes the connection itself."""

    def _on_window_update(self, number: int, flags: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise Http2Error(Code.FRAME_SIZE_ERROR, "malformed WINDOW_UPDATE")
        size = int.from_bytes(payload, "big") & 0x7FFFFFFF
        if size == 0:
            raise Http2Error(Code.PROTOCOL_ERROR, "WINDOW_UPDATE by 0", number)
        if number == 0:
            self.writer.window += size
            if self.writer.window > frames.MAX_WINDOW:
                raise Http2Error(Code.FLOW_CONTROL_ERROR, "the window is too large")
            self.writer.unblock()
        elif (stream := self.streams.get(number)) is not None:
            if not stream.open_window(size):
                raise Http2Error(Code.FLOW_CONTROL_ERROR, "the window is too large", number)
            self.writer.unblock()
        elif number > self._last:
            raise Http2Error(Code.PROTOCOL_ERROR, f"WINDOW_UPDATE on stream {number}")

    def _on_push(self, number: int, flags: int, payload: bytes) -> None:
        raise Http2Error(Code.PROTOCOL_ERROR, "PUSH_PROMISE from a client")

    # ---- streams

    def credit(self, stream: Stream, size: int) -> None:
        """Lets the client send more of a request, in steps of a quarter of the window."""
        stream.credit += size
        if stream.credit >= STREAM_WINDOW // 4:
            self.writer.put(frames.window_update(stream.id, stream.credit))
            stream.receive_window += stream.credit
            stream.credit = 0

    def close_stream(self, stream: Stream) -> None:
        self.streams.pop(stream.id, None)
        if not stream.received_end:  # the response does not need the rest of the request
            self.writer.put(frames.reset(stream.id, Code.NO_ERROR))
        self._after_stream()

    def _reset(self, number: int, code: Code) -> None:
        stream = self.streams.pop(number, None)
        self.writer.put(frames.reset(number, code))
        self._count_waste()
        if stream is not None:
            stream.abandon()
        self._after_stream()

    def _after_stream(self) -> None:
        self.active_at = time.monotonic()
        if self._last_announced and not self.streams:
            self._close()

    def _fail(self, code: Code, message: str) -> None:
        """Ends the connection because the client violates the protocol."""
        self.writer.put(frames.goaway(self._last, code, message))
        self._close()

    def _close(self) -> None:
        self.writer.flush()
        self.closing = True
        self.transport.close()

    def drop(self) -> None:
        """Closes an idle connection, to make room for another one."""
        self._fail(Code.NO_ERROR, "")

    # ---- timeouts

    @property
    def idle(self) -> bool:
        """Whether no request is being processed or has partly arrived."""
        return not self.streams and not self._reader.partial

    @property
    def began_at(self) -> float:
        """When the oldest part arrived that is not complete."""
        return self._reader.began_at

    @property
    def in_header(self) -> bool:
        """Whether the client has sent no complete request yet, or a part of a header."""
        return not self.streams and not self.idle

    def check_timeouts(self, now: float) -> None:
        """Closes what is too slow or was idle for too long; drains."""
        limits = self.server.settings
        if self.closing:
            if now - self.active_at > limits.send_timeout:
                self.transport.abort()
            return
        if self.blocked_at and now - self.blocked_at > limits.send_timeout:
            self.transport.abort()
            return
        if self.server.draining or self._served >= limits.keepalive_requests:
            self._leave()
        if self.idle:
            if now - self.active_at > limits.keepalive_timeout:
                self._leave()
            if self._leaving_since and now - self._leaving_since > limits.keepalive_grace:
                self._close()  # it does not answer
                return
        elif (
            self._reader.partial
            and not (self._reader.in_data and self.streams)  # whose bodies have their own limit
            and now - self._reader.began_at > limits.header_timeout
        ):
            self._fail(Code.PROTOCOL_ERROR, "the frame took too long")
            return
        for stream in list(self.streams.values()):
            self._check_stream(stream, now)

    def _check_stream(self, stream: Stream, now: float) -> None:
        limits, handler = self.server.settings, stream.handler
        if stream.blocked_at and now - stream.blocked_at > limits.send_timeout:
            self._reset(stream.id, Code.CANCEL)
        elif handler.expects_more:
            due = limits.body_timeout + handler.received / limits.body_rate
            if now - handler.began_at > due:
                handler.time_out()
        elif self._leaving_since:
            handler.drain(limits.keepalive_grace)

    def _leave(self) -> None:
        """Asks the client to open no more streams here; see the head of this file."""
        if not self._leaving_since:
            self._leaving_since = time.monotonic()
            self.writer.put(frames.goaway(frames.MAX_WINDOW, Code.NO_ERROR, "draining"))
            self.writer.put(frames.frame(frames.PING, 0, 0, _DRAINING))


_HANDLERS: dict[int, Callable[[Http2Connection, int, int, bytes], None]] = {
    frames.RST_STREAM: Http2Connection._on_reset,
    frames.SETTINGS: Http2Connection._on_settings,
    frames.PUSH_PROMISE: Http2Connection._on_push,
    frames.PING: Http2Connection._on_ping,
    frames.GOAWAY: Http2Connection._on_goaway,
    frames.WINDOW_UPDATE: Http2Connection._on_window_update,
}
