"""One call: its messages, the handler that answers it, and the response with its status."""

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any, Protocol

from cupola.errors import CupolaError
from cupola.serve.grpc import status
from cupola.serve.grpc.message_reader import Message, MessageReader, whole_message
from cupola.serve.http.messages import HTTPError, Request, Response
from cupola.serve.http.server import Server, Work
from cupola.serve.http2.headers import encode
from cupola.serve.http2.stream import Stream

_TIMEOUT = re.compile(r"(\d{1,8})([HMSmun])", re.ASCII)
_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
MOST_WAITING = 4096  # messages; a client that obeys its window reaches it only with tiny ones
AHEAD = 64  # messages of a stream that may wait for the handler before the client has to


@dataclass(frozen=True)
class Method:
    """A method of a service. The handler gets context and request, and with `streams` also the
    messages of the client.
    """

    handler: Callable[..., Any]
    streams: bool = False
    public: bool = False  # answered without an API key and without limits
    operations: bool = False  # for operators


class CallServer(Protocol):
    """What a call needs of the application."""

    def call(
        self,
        request: Request,
        reply: Callable[[Request, Response], None],
        handler: Any,
        public: bool,
    ) -> Work | None:
        """Runs a handler; calls `reply` once."""

    def admit_call(self, request: Request, method: Method) -> None:
        """HTTPError 401, 403 or 429 if the call is not to be answered."""


def timeout_of(text: str) -> float:
    """Seconds of the header grpc-timeout; HTTPError 400."""
    found = _TIMEOUT.fullmatch(text)
    if found is None:
        raise HTTPError(400, f"grpc-timeout: expected digits and a unit, got {text[:40]!r}")
    return int(found[1]) * _UNITS[found[2]]


class Call:
    """The handler of a stream. Every call ends with exactly one status."""

    def __init__(
        self, server: Server, app: CallServer, stream: Stream, request: Request, method: Method
    ) -> None:
        self._server, self._app, self._stream = server, app, stream
        self._request, self._method = request, method
        self._reader: MessageReader | None = None  # made once a message comes in pieces
        self._message: Message | None = None
        self._messages: MessageQueue | None = None
        self._work: Work | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._sent = 0
        self._head_sent = self._ended = False
        self.began_at = stream.began_at
        server.active += 1

    def start(self) -> None:
        """Starts the handler of a client that streams, and the clock of the deadline."""
        seconds = None
        try:
            self._app.admit_call(self._request, self._method)
        except HTTPError as error:
            self._fail(error)
            return
        if (text := self._request.headers.get("grpc-timeout")) is not None:
            try:
                seconds = timeout_of(text)
            except HTTPError as error:
                self._fail(error)
                return
            self._request.headers["x-request-timeout"] = str(max(seconds, 1e-3))
        if self._method.streams:
            if seconds is not None:
                self._timer = self._server.loop.call_later(seconds, self._expire)
            self._messages = MessageQueue(self._stream)
            self._run(self._messages)

    def _expire(self) -> None:
        self._fail(HTTPError(504, "the deadline has passed"))

    def _run(self, *arguments: Any) -> None:
        handler = self._method.handler
        work = self._app.call(
            self._request,
            self._reply,
            lambda *given: handler(*given, *arguments),
            self._method.public,
        )
        if work is not None and not self._ended and self._work is None:
            self._work = work

    # ---- StreamHandler

    @property
    def expects_more(self) -> bool:
        if self._method.streams:
            return self._reader is not None and self._reader.partial
        return not self._stream.received_end

    @property
    def received(self) -> int:
        return 0 if self._reader is None else self._reader.received

    def feed(self, data: bytes) -> None:
        if self._ended:
            return
        reader = self._reader
        was_partial = reader is not None and reader.partial
        try:
            messages = self._read(data)
            if self._messages is not None:
                self._messages.put(messages, len(data))
        except HTTPError as error:
            self._fail(error)
            return
        if self._messages is not None:
            if not (was_partial and self.expects_more):  # not for each byte of a slow one
                self.began_at = monotonic()
            return
        self._stream.take(len(data))
        for message in messages:
            if self._message is not None:
                message.release()
                self._fail(HTTPError(400, "expected one message, got several"))
                return
            self._message = message
            self._request.body, self._request.spooled = message.body, message.spooled

    def _read(self, data: bytes) -> list[Message]:
        """The messages that `data` completes. Most come whole, in one frame."""
        server, reader = self._server, self._reader
        if reader is None or not reader.partial:
            message = whole_message(data, server.settings)
            if message is not None:
                return [message]
        if reader is None:
            reader = self._reader = MessageReader(server.settings, server.new_spool_path)
        return reader.feed(data)

    def end(self) -> None:
        if self._ended:
            return
        if self._reader is not None and self._reader.partial:
            self._fail(HTTPError(400, "the message is truncated"))
        elif self._messages is not None:
            self._messages.close()
        elif self._message is None:
            self._fail(HTTPError(400, "expected one message, got none"))
        else:
            self.began_at = 0.0
            try:
                unpack_header(self._request, self._message)
            except HTTPError as error:
                self._fail(error)
                return
            self._run()

    def cancel(self) -> None:
        """The client has left."""
        self._end(Response(499))

    def time_out(self) -> None:
        self._fail(HTTPError(408, "the message took too long"))

    def drain(self, seconds: float) -> None:
        """Ends a stream whose client has sent nothing for `seconds` and waits for nothing."""
        queue = self._messages
        if queue is not None and queue.idle and monotonic() - self.began_at > seconds:
            self._fail(HTTPError(503, "the server is being reloaded; open the stream again"))

    # ---- answering

    def _reply(self, request: Request, response: Response) -> None:
        if self._ended:
            return
        if response.stream is not None:
            self._head_sent = True
            self._stream.send_head(status.head_with(request.id))
            self._work = self._server.loop.create_task(self._send_stream(response))
        elif response.status != 200:
            message = bytes(response.body).decode()
            self._fail(HTTPError(response.status, message, response.headers))
        else:
            body = response.body
            prefix = b"\0" + len(body).to_bytes(4, "big")
            self._sent = len(body)
            head = status.head_with(request.id)
            if isinstance(body, bytes):
                self._stream.respond(head, prefix + body, status.TRAILERS_OK)
            else:
                self._stream.send_head(head)
                self._stream.send(prefix, body)
                self._stream.finish(status.TRAILERS_OK)
            self._finish(response)

    async def _send_stream(self, response: Response) -> None:
        assert response.stream is not None
        error: HTTPError | None = None
        try:
            await response.stream(self)
        except HTTPError as raised:
            error = raised
        except CupolaError as raised:
            error = HTTPError(400, str(raised))
        except Exception as raised:
            self._server.log_failure(self._request, raised)
            error = HTTPError(500, "internal error")
        if self._ended:
            return
        if error is None:
            self._stream.finish(status.TRAILERS_OK)
        else:
            self._stream.finish(status.trailers(error.status, error.message, error.headers))
        self._finish(Response(200 if error is None else error.status))

    async def write(self, data: bytes) -> None:
        """Sends one message of a streamed response; waits for a slow client."""
        await self._stream.writable()
        self._sent += len(data)
        self._stream.send(b"\0" + len(data).to_bytes(4, "big") + data)

    def _fail(self, error: HTTPError) -> None:
        """Ends the call with an error, whatever is in progress."""
        if self._ended:
            return
        trailers = status.trailers(error.status, error.message, error.headers)
        head = b"" if self._head_sent else status.head_with(self._request.id)
        self._stream.finish(head + trailers)
        self._end(Response(error.status))

    def _end(self, response: Response) -> None:
        """Ends a call whose work may be in progress."""
        work = self._work
        self._finish(response)
        if work is not None:
            work.cancel()

    def _finish(self, response: Response) -> None:
        if self._ended:
            return
        self._ended, self._work = True, None
        if self._timer is not None:
            self._timer.cancel()
        if self._messages is not None:
            self._messages.discard()
        if self._reader is not None:
            self._reader.discard()
        self._request.release()
        self._server.active -= 1
        self._server.finished(self._request, response, self._sent)


class MessageQueue:
    """The messages of a client that streams. Ends when the client has sent the last."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._waiting: deque[Message] = deque()
        self._arrived = asyncio.Event()
        self._closed = False
        self._owed = 0  # bytes that the client may send again once a message is taken
        self.in_progress = 0  # messages that the handler works on

    def put(self, messages: list[Message], size: int) -> None:
        """Adds what `size` bytes of the body completed; HTTPError 429 if too many wait."""
        self._waiting.extend(messages)
        if len(self._waiting) > MOST_WAITING:
            raise HTTPError(429, f"{len(self._waiting)} messages of this stream are waiting")
        self._owed += size
        self._credit()
        self._arrived.set()

    def _credit(self) -> None:
        if len(self._waiting) < AHEAD:
            self._stream.take(self._owed)
            self._owed = 0

    def close(self) -> None:
        """The client sends no more."""
        self._closed = True
        self._arrived.set()

    @property
    def idle(self) -> bool:
        """Whether no message waits or is being answered."""
        return not self._waiting and not self.in_progress

    async def __aiter__(self) -> AsyncIterator[Message]:
        while True:
            if self._waiting:
                message = self._waiting.popleft()
                self._credit()
                yield message
            elif self._closed:
                return
            else:
                self._arrived.clear()
                await self._arrived.wait()

    def discard(self) -> None:
        """Removes the files of messages that no one has taken."""
        for message in self._waiting:
            message.release()
        self._waiting.clear()


def unpack_header(request: Request, message: Message) -> None:
    """Marks a compressed message as WorkerContext.decompressor expects it; HTTPError 400."""
    if message.compressed:
        encoding = request.headers.get("grpc-encoding", "identity").lower()
        if encoding == "identity":
            raise HTTPError(400, "a compressed message without grpc-encoding")
        request.headers["content-encoding"] = encoding
    else:
        request.headers.pop("content-encoding", None)


def plain_refusal(stream: Stream, code: bytes) -> None:
    """Answers a request that is not gRPC with an HTTP status."""
    stream.finish(encode([(b":status", code), (b"content-length", b"0")]))
