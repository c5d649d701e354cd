"""A runner: one process with one model. It decodes, batches, executes and answers.

One thread, one loop: read what workers sent, run one batch or one step of the streams, write.
While a batch runs nothing is read; the kernel keeps what arrives, and a no-op model pays no
thread switch. A runner may die at any instant: whatever it holds, a worker holds too.
"""

import selectors
import socket
import sys
import time
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cupola.errors import CupolaError, InputError
from cupola.runtime.predictor import Predictor, StreamEngine
from cupola.serve import wire
from cupola.serve.board import Board
from cupola.serve.runners import codec
from cupola.serve.runners.batcher import Batcher, Item, Job

HEARTBEAT = 0.5  # seconds between two beats of an idle loop


@dataclass(eq=False)
class Connection:
    """A worker's connection."""

    socket: socket.socket
    unpacker: wire.Unpacker = field(default_factory=wire.Unpacker)
    outgoing: bytearray = field(default_factory=bytearray)


class Runner:
    """Serves `predictor` on `listener` until the mould has gone and no worker is connected."""

    def __init__(
        self,
        predictor: Predictor,
        listener: socket.socket,
        board: Board,
        *,
        max_batch: int,
        delay: float,
        spool: Path,
        spool_threshold: int,
        life: int | None = None,
    ) -> None:
        self.predictor = predictor
        self.board = board
        self.batcher = Batcher(max_batch, delay)
        self.spool, self.spool_threshold = spool, spool_threshold
        self.orphaned = self.stopped = False
        self.streams: dict[str, Job] = {}
        self.engine: StreamEngine | None = predictor.open_stream()
        self.connections: set[Connection] = set()
        self.selector = selectors.DefaultSelector()
        listener.setblocking(False)
        self.selector.register(listener, selectors.EVENT_READ, self._accept)
        if life is not None:
            self.selector.register(life, selectors.EVENT_READ, self._orphan)

    def serve(self) -> None:
        """The loop."""
        while not self.stopped:
            for key, events in self.selector.select(self._pause()):
                key.data(key.fileobj, events)
            self.board.beat()
            self._run_batch()
            self._step_streams()
            if self.orphaned and not self.connections:
                return

    def _pause(self) -> float:
        if self.engine is not None and self.engine.active:
            return 0.0
        wait = self.batcher.wait()
        return HEARTBEAT if wait is None else min(wait, HEARTBEAT)

    def _orphan(self, life: Any, _: int) -> None:
        self.selector.unregister(life)
        self.orphaned = True

    # ---- connections

    def _accept(self, listener: Any, _: int) -> None:
        try:
            accepted, _ = listener.accept()
        except OSError:
            return
        accepted.setblocking(False)
        connection = Connection(accepted)
        self.connections.add(connection)
        self.selector.register(
            accepted, selectors.EVENT_READ, lambda _, events: self._ready(connection, events)
        )
        self._send(connection, {"op": "hello", "board": str(self.board.path)})

    def _ready(self, connection: Connection, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._flush(connection)
        if events & selectors.EVENT_READ and connection in self.connections:
            self._read(connection)

    def _read(self, connection: Connection) -> None:
        try:
            data = connection.socket.recv(1024 * 1024)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(connection)
            return
        for header, body in connection.unpacker.feed(data):
            self._take(connection, header, body)

    def _drop(self, connection: Connection) -> None:
        """The worker is gone, and with it everyone who waited there."""
        if connection not in self.connections:
            return
        self.connections.discard(connection)
        self.selector.unregister(connection.socket)
        connection.socket.close()
        held = [*self.batcher.jobs.values(), *self.streams.values()]
        for job in held:
            if job.connection is connection:
                self._cancel(job.id)

    def _send(self, connection: Connection, header: dict[str, Any], body: wire.Body = b"") -> None:
        if len(body) > self.spool_threshold:
            header, body = {**header, "spool": wire.spill(body, self.spool)}, b""
        for piece in wire.pack(header, body):
            connection.outgoing += piece
        self._flush(connection)

    def _flush(self, connection: Connection) -> None:
        if connection not in self.connections:
            return
        try:
            while connection.outgoing:
                sent = connection.socket.send(connection.outgoing)
                del connection.outgoing[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self._drop(connection)
            return
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.outgoing else 0)
        key = self.selector.get_key(connection.socket)
        if key.events != wanted:
            self.selector.modify(connection.socket, wanted, key.data)

    # ---- requests

    def _take(self, connection: Connection, header: dict[str, Any], body: bytes) -> None:
        if header["op"] == "cancel":
            self._cancel(header["id"])
            return
        now = time.monotonic()
        if now > header["deadline"]:
            return
        self.board.begin([header["id"]])  # decoding a hostile picture may kill us, too
        try:
            whole = wire.collect(header, body)
            request = codec.parse(header, whole, self.predictor.inputs)
            samples = self.predictor.decode(request.tensors, request.parameters)
            buckets = [self.predictor.bucket(sample) for sample in samples]
        except CupolaError as error:
            self._refuse(connection, header["id"], 400, str(error))
            return
        except Exception as error:
            self._refuse(connection, header["id"], 500, f"decode failed: {error!r}")
            return
        finally:
            self.board.end()
        job = Job(header["id"], connection, request, samples, now, header["deadline"])
        job.alone = bool(header.get("suspect"))
        if header["op"] == "stream":
            self._begin_stream(job)
        else:
            self._begin(job, buckets)

    def _begin(self, job: Job, buckets: list[Hashable]) -> None:
        if job.samples:
            self.batcher.add(job, buckets)
        else:
            self._answer(job)

    def _cancel(self, job_id: str) -> None:
        self.batcher.cancel(job_id)
        if self.streams.pop(job_id, None) is not None and self.engine is not None:
            self.engine.cancel(job_id)

    def _refuse(self, connection: Connection, job_id: str, status: int, error: str) -> None:
        self._send(connection, {"op": "answer", "id": job_id, "status": status, "error": error})

    def _run_batch(self) -> None:
        batch = self.batcher.take()
        if not batch:
            return
        began = time.monotonic()
        self.board.begin(list(dict.fromkeys(item.job.id for item in batch)))
        try:
            self._execute(batch)
        finally:
            self.board.end()
        seconds = time.monotonic() - began
        for job in {id(item.job): item.job for item in batch}.values():
            job.began = job.began or began
            job.run_seconds += seconds
            job.batch = max(job.batch, len(batch))
            if len(job.predictions) == len(job.samples):
                self.batcher.jobs.pop(job.id, None)
                self._answer(job)

    def _execute(self, batch: list[Item]) -> None:
        """One batch; if it fails, each sample alone, so that one cannot spoil the others."""
        try:
            found = self.predictor.run([item.job.samples[item.index] for item in batch])
        except Exception as error:
            if len(batch) > 1:
                for item in batch:
                    self._execute([item])
                return
            found = [error]
        for item, prediction in zip(batch, found, strict=True):
            item.job.predictions[item.index] = prediction

    def _answer(self, job: Job) -> None:
        if job.cancelled:
            return
        began = time.monotonic()
        predictions = [job.predictions[n] for n in range(len(job.samples))]
        failed = next((p for p in predictions if isinstance(p, Exception)), None)
        try:
            if failed is not None:
                raise failed
            arrays = self.predictor.encode(predictions, job.request.parameters)
            body, json_size = codec.build(job.request, arrays, self.predictor)
        except Exception as error:
            status = 400 if isinstance(error, InputError) else 500
            text = str(error) if status == 400 else f"{type(error).__name__}: {error}"
            self._refuse(job.connection, job.id, status, text)
            return
        run_began = job.began or began
        header = {
            "op": "answer",
            "id": job.id,
            "status": 200,
            "json_size": json_size,
            "samples": len(job.samples),
            "batch": job.batch,
            "received": job.received,
            "times": [run_began - job.received, job.run_seconds, time.monotonic() - began],
        }
        self._send(job.connection, header, body)

    # ---- streams

    def _begin_stream(self, job: Job) -> None:
        if self.engine is None:
            self._refuse(job.connection, job.id, 400, "this model does not stream")
            return
        if len(job.samples) != 1:
            self._refuse(
                job.connection, job.id, 400, f"a stream takes one sample, got {len(job.samples)}"
            )
            return
        self.streams[job.id] = job
        self.engine.add(job.id, job.samples[0])

    def _step_streams(self) -> None:
        if self.engine is None or not self.engine.active:
            return
        for unwanted in [job for job in self.streams.values() if job.unwanted]:
            self._cancel(unwanted.id)
        self.board.begin(list(self.streams))
        try:
            chunks = self.engine.step()
        except Exception as error:
            for failed in list(self.streams.values()):
                self._refuse(failed.connection, failed.id, 500, f"{type(error).__name__}: {error}")
                self._cancel(failed.id)
            return
        finally:
            self.board.end()
        for chunk in chunks:
            job = self.streams.get(chunk.request_id)
            if job is None:
                continue
            if chunk.final:
                del self.streams[chunk.request_id]
            data = {key: plain(value) for key, value in chunk.data.items()}
            header = {"op": "chunk", "id": job.id, "data": data, "final": chunk.final}
            self._send(job.connection, header)


def plain(value: Any) -> Any:
    """What a chunk holds, as JSON can carry it."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if "torch" in sys.modules and hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value
