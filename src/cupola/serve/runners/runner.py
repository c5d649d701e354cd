"""A runner: one process with one model. It decodes, batches, executes and answers.

One thread, one loop: read what workers sent, run one batch or one step of the streams, write.
While a batch runs nothing is read; the kernel keeps what arrives, and a no-op model pays no
thread switch. A runner may die at any instant: whatever it holds, a worker holds too.
"""

import socket
import sys
import time
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import numpy as np

from cupola.errors import CupolaError, EngineError, InputError
from cupola.runtime.predictor import Predictor, Resumable, StreamEngine
from cupola.serve.ipc import frames as wire
from cupola.serve.ipc.scoreboard import Board
from cupola.serve.runners import codec
from cupola.serve.runners.batcher import Batcher, Item, Job
from cupola.serve.runners.connection_pool import Connection, Hub

HEARTBEAT = 0.5  # seconds between two beats of an idle loop


class Runner:
    """Serves `predictor` on `listener` until the zygote has gone and no worker is connected."""

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
        self.specs = {spec.name: spec for spec in predictor.inputs}
        self.board = board
        self.batcher = Batcher(max_batch, delay)
        self.stopped = False
        self.streams: dict[str, Job] = {}
        self.engine: StreamEngine | None = predictor.open_stream()
        hello = wire.message("hello", board=str(board.path))
        self.hub = Hub(listener, hello, self._forget, spool, spool_threshold, life)

    def serve(self) -> None:
        """The loop. A number that is too large for its type becomes infinite, without a word."""
        with np.errstate(over="ignore"):
            while not self.stopped and not self._turn():
                pass

    def _turn(self) -> bool:
        """Reads, runs one batch, steps the streams, writes. True when it is time to go."""
        for connection, frame in self.hub.wait(self._pause()):
            self._take(connection, frame)
        self.board.beat()
        self._run_batch()
        self._step_streams()
        self.hub.flush()
        return self.hub.orphaned and not self.hub.connections

    def _pause(self) -> float:
        if self.engine is not None and self.engine.active:
            return 0.0
        wait = self.batcher.wait()
        return HEARTBEAT if wait is None else min(wait, HEARTBEAT)

    def _forget(self, gone: Connection) -> None:
        """A worker has left, and with it everyone who waited there."""
        for job in [*self.batcher.jobs.values(), *self.streams.values()]:
            if job.connection is gone:
                self._cancel(job.id)

    # ---- requests

    def _take(self, connection: Connection, frame: wire.Frame) -> None:
        if frame.kind == wire.CANCEL:
            self._cancel(frame.id)
            return
        now, deadline = time.monotonic(), frame.times[0]
        if now > deadline:
            return
        self.board.begin([frame.id])  # decoding a hostile image may kill us, too
        try:
            body = wire.collect(frame) if frame.extra else frame.body
            request = codec.parse(frame, body, self.specs)
            samples = self.predictor.decode(request.tensors, request.parameters)
            buckets = [self.predictor.bucket(sample) for sample in samples]
        except CupolaError as error:
            self._refuse(connection, frame.id, 400, str(error))
            return
        except Exception as error:
            self._refuse(connection, frame.id, 500, f"decode failed: {error!r}")
            return
        finally:
            self.board.end()
        job = Job(frame.id, connection, request, samples, now, deadline)
        job.alone = "suspect" in frame.extra
        if frame.kind == wire.STREAM:
            self._begin_stream(job, frame.extra.get("written"))
        else:
            self._begin(job, buckets)

    def _begin(self, job: Job, buckets: list[Hashable]) -> None:
        if job.samples:
            self.batcher.add(job, buckets)
        else:
            self._answer(job)

    def _cancel(self, job_id: int) -> None:
        self.batcher.cancel(job_id)
        if self.streams.pop(str(job_id), None) is not None and self.engine is not None:
            self.engine.cancel(str(job_id))

    def _refuse(self, connection: Connection, job_id: int, status: int, error: str) -> None:
        self.hub.tell(connection, wire.refusal(job_id, status, error))

    def _run_batch(self) -> None:
        batch = self.batcher.take()
        if not batch:
            return
        began = time.monotonic()
        jobs = list(dict.fromkeys(job for job, _ in batch))
        self.board.begin([job.id for job in jobs])
        try:
            self._execute(batch)
        finally:
            self.board.end()
        seconds = time.monotonic() - began
        for job in jobs:
            job.began = job.began or began
            job.run_seconds += seconds
            job.batch = max(job.batch, len(batch))
            if not job.missing:
                self.batcher.jobs.pop(job.id, None)
                self._answer(job)

    def _execute(self, batch: list[Item]) -> None:
        """One batch; if it fails, each sample alone, so that one cannot spoil the others."""
        try:
            found = self.predictor.run([job.samples[index] for job, index in batch])
        except EngineError:
            raise  # this process is of no more use: what it holds is replayed on another
        except Exception as error:
            if len(batch) > 1:
                for item in batch:
                    self._execute([item])
                return
            found = [error]
        for (job, index), prediction in zip(batch, found, strict=True):
            job.predictions[index] = prediction
            job.missing -= 1

    def _answer(self, job: Job) -> None:
        if job.cancelled:
            return
        began = time.monotonic()
        try:
            for prediction in job.predictions:
                if isinstance(prediction, Exception):
                    raise prediction
            arrays = self.predictor.encode(job.predictions, job.request.parameters)
            body, json_size = codec.build(job.request, arrays, self.predictor)
        except Exception as error:
            status = 400 if isinstance(error, InputError) else 500
            text = str(error) if status == 400 else f"{type(error).__name__}: {error}"
            self._refuse(job.connection, job.id, status, text)
            return
        run_began = job.began or began
        phases = (run_began - job.received, job.run_seconds, time.monotonic() - began)
        answer = wire.Frame(
            wire.ANSWER, job.id, body, {}, json_size, (job.received, *phases),
            len(job.samples), job.batch, 200,
        )  # fmt: skip
        self.hub.tell(job.connection, answer)

    # ---- streams

    def _begin_stream(self, job: Job, written: list[int] | None) -> None:
        if self.engine is None:
            self._refuse(job.connection, job.id, 400, "this model does not stream")
            return
        if len(job.samples) != 1:
            self._refuse(
                job.connection, job.id, 400, f"a stream takes one sample, got {len(job.samples)}"
            )
            return
        self.streams[str(job.id)] = job
        if written and isinstance(self.engine, Resumable):
            self.engine.resume(str(job.id), job.samples[0], written)
        else:
            self.engine.add(str(job.id), job.samples[0])

    def _step_streams(self) -> None:
        if self.engine is None or not self.engine.active:
            return
        now = time.monotonic()
        for unwanted in [job for job in self.streams.values() if job.unwanted(now)]:
            self._cancel(unwanted.id)
        self.board.begin([job.id for job in self.streams.values()])
        try:
            chunks = self.engine.step()
        except EngineError:
            raise
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
            piece = wire.Frame(wire.CHUNK, job.id, extra={"data": data, "final": chunk.final})
            self.hub.tell(job.connection, piece)


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
