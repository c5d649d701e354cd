"""A runner: one process with one model, which decodes, batches, executes and answers.

One thread runs one loop: read requests, run one batch or one step of the streams, send answers.
During a batch nothing is read, and the kernel buffers what arrives; this saves thread switches. A
runner may die at any time: the workers keep every request that it holds.
"""

import socket
import sys
import time
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import numpy as np

from cupola.errors import CupolaError, EngineError, InputError
from cupola.runtime.predictor import (
    Chunk,
    Predictor,
    Resumable,
    StreamEngine,
)
from cupola.serve.ipc import frames
from cupola.serve.ipc.scoreboard import Scoreboard
from cupola.serve.ipc.sequence import SequenceStep, read_sequence
from cupola.serve.runners import codec
from cupola.serve.runners.batcher import Batcher, Item, Job
from cupola.serve.runners.connection_pool import ConnectionPool, WorkerConnection
from cupola.serve.runners.failures import answer_to, end_without_device
from cupola.serve.runners.sequences import Sequences
from cupola.serve.runners.telemetry import RunnerTelemetry

HEARTBEAT = 0.5  # seconds between two heartbeats of an idle loop


class Runner:
    """Serves `predictor` on `listener` until the zygote has exited and no worker is connected."""

    def __init__(
        self,
        predictor: Predictor,
        listener: socket.socket,
        scoreboard: Scoreboard,
        *,
        max_batch: int,
        delay: float,
        spool: Path,
        spool_threshold: int,
        sequences: Sequences,
        parent_pipe: int | None = None,
        telemetry: RunnerTelemetry | None = None,
    ) -> None:
        self.predictor = predictor
        self.specs = {spec.name: spec for spec in predictor.inputs}
        self.scoreboard = scoreboard
        self.batcher = Batcher(max_batch, delay)
        self.sequences, self.telemetry = sequences, telemetry
        self.stopped = False
        self.streams: dict[str, Job] = {}
        self.engine: StreamEngine | None = predictor.open_stream()
        hello = frames.control("hello", scoreboard=str(scoreboard.path))
        self.pool = ConnectionPool(
            listener, hello, self._on_disconnect, spool, spool_threshold, parent_pipe
        )

    def serve(self) -> None:
        """Runs the loop. Overflow in conversions gives infinity without a warning."""
        with np.errstate(over="ignore"):
            while not self.stopped and not self._turn():
                pass

    def _turn(self) -> bool:
        """Reads, runs one batch, steps the streams, sends. True when the runner can exit."""
        for connection, frame in self.pool.wait(self._pause()):
            self._on_frame(connection, frame)
        self.scoreboard.heartbeat()
        self._run_batch()
        self._step_streams()
        self.sequences.expire()
        self.pool.flush()
        return self.pool.orphaned and not self.pool.connections

    def _pause(self) -> float:
        if self.engine is not None and self.engine.active:
            return 0.0
        wait = self.batcher.wait()
        return HEARTBEAT if wait is None else min(wait, HEARTBEAT)

    def _on_disconnect(self, connection: WorkerConnection) -> None:
        """Cancels the requests of a worker that has left."""
        for job in [*self.batcher.jobs.values(), *self.streams.values()]:
            if job.connection is connection:
                self._cancel(job.id)

    # ---- requests

    def _on_frame(self, connection: WorkerConnection, frame: frames.Frame) -> None:
        if frame.kind == frames.CANCEL:
            self._cancel(frame.id)
            return
        now = time.monotonic()
        if now > frame.times[0]:
            self._free_state(connection, frame, now)
            return
        self.scoreboard.count_request()
        self.scoreboard.begin([frame.id])  # decoding a malicious image may crash the process too
        self._receive(connection, frame, now)
        self.scoreboard.end()  # not in `finally`: after a crash, the request is a suspect

    def _receive(self, connection: WorkerConnection, frame: frames.Frame, now: float) -> None:
        """Decodes a request and queues it for a batch."""
        try:
            body = frames.load_body(frame) if frame.extra else frame.body
            request = codec.parse(frame, body, self.specs)
            samples = self.predictor.decode(request.tensors, request.parameters)
            buckets = [self.predictor.bucket(sample) for sample in samples]
            sequence = self._sequence_of(request, samples)
        except Exception as error:
            status = 400 if isinstance(error, CupolaError) else 500
            text = str(error) if status == 400 else f"decoding failed: {error!r}"
            self._refuse(connection, frame.id, status, text)
            self._free_state(connection, frame, now)
            return
        job = Job(frame.id, connection, request, samples, now, frame.times[0])
        job.alone = "suspect" in frame.extra
        job.sequence, job.trace = sequence, frame.extra.get("trace", "")
        if frame.kind == frames.STREAM:
            self._begin_stream(job, frame.extra.get("written"))
        else:
            self._begin(job, buckets)

    def _sequence_of(self, request: codec.ParsedRequest, samples: list[Any]) -> SequenceStep | None:
        """The sequence that a request belongs to; InputError if the model has no state."""
        step = read_sequence(request.parameters)
        if step is not None and not self.predictor.is_stream:
            raise InputError(f"{self.predictor.name} has no state; remove the sequence_id")
        if step is not None and len(samples) != 1:
            raise InputError(f"a step of a sequence has one sample, got {len(samples)}")
        return step

    def _free_state(self, connection: WorkerConnection, frame: frames.Frame, now: float) -> None:
        """Frees, after the earlier steps, the state that a refused start or end leaves behind.

        A drive whose start was refused must not go on from an earlier drive of the same id.
        """
        if "frees" in frame.extra:
            job = Job(frame.id, connection, codec.ParsedRequest({}), [None], now, now)
            job.sequence = SequenceStep(frame.extra["sequence"], True, True)
            job.cancelled = True
            self.batcher.add(job, [None])

    def _begin(self, job: Job, buckets: list[Hashable]) -> None:
        if job.samples:
            self.batcher.add(job, buckets)
        else:
            self._answer(job)

    def _cancel(self, job_id: int) -> None:
        self.batcher.cancel(job_id)
        if self.streams.pop(str(job_id), None) is not None and self.engine is not None:
            self.engine.cancel(str(job_id))

    def _refuse(self, connection: WorkerConnection, job_id: int, status: int, error: str) -> None:
        self.pool.send(connection, frames.failure(job_id, status, error))

    def _run_batch(self) -> None:
        batch = self.batcher.take()
        if not batch:
            return
        began = time.monotonic()
        jobs = list(dict.fromkeys(job for job, _ in batch))
        self.scoreboard.begin([job.id for job in jobs])
        self._execute(batch)
        ended = time.monotonic()
        seconds = ended - began
        if self.telemetry is not None:
            self.telemetry.batch(jobs, len(batch), began, ended)
        for job in jobs:
            job.began = job.began or began
            job.run_seconds += seconds
            job.batch = max(job.batch, len(batch))
            if not job.missing:
                self.batcher.jobs.pop(job.id, None)
                self._answer(job)
        self.scoreboard.end()

    def _execute(self, batch: list[Item]) -> None:
        """Runs a batch. If it fails, runs each sample alone, so one cannot spoil the others."""
        if batch[0][0].sequence is not None:
            for job, _ in batch:
                job.predictions[0] = self._run_step(job)
                job.missing -= 1
            return
        try:
            found = self.predictor.run([job.samples[index] for job, index in batch])
        except EngineError:
            raise  # the process cannot continue: its requests are replayed on another
        except Exception as error:
            end_without_device(error)
            if len(batch) > 1:
                for item in batch:
                    self._execute([item])
                return
            found = [error]
        for (job, index), prediction in zip(batch, found, strict=True):
            job.predictions[index] = prediction
            job.missing -= 1

    def _run_step(self, job: Job) -> Any:
        """The prediction for a step of a sequence, or the exception that it raised."""
        step = job.sequence
        assert step is not None
        if job.is_abandoned(time.monotonic()):
            job.cancelled = True
            self.sequences.drop(step)
            return None
        try:
            state = self.sequences.find(step)
            prediction, state = self.predictor.run_frame(job.samples[0], state)
        except EngineError:
            raise
        except Exception as error:
            end_without_device(error)
            self.sequences.drop(step)
            return error
        self.sequences.keep(step, state)
        return prediction

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
            self._refuse(job.connection, job.id, *answer_to(error))
            return
        run_began = job.began or began
        phases = (run_began - job.received, job.run_seconds, time.monotonic() - began)
        answer = frames.Frame(
            frames.ANSWER, job.id, body, {}, json_size, (job.received, *phases),
            len(job.samples), job.batch, 200,
        )  # fmt: skip
        self.pool.send(job.connection, answer)
        if self.telemetry is not None:
            self.telemetry.encoded(job, began, time.monotonic())

    # ---- streams

    def _begin_stream(self, job: Job, written: list[int] | None) -> None:
        if self.engine is None:
            self._refuse(job.connection, job.id, 400, "this model does not support streaming")
            return
        if len(job.samples) != 1:
            error = f"a stream needs exactly one sample, got {len(job.samples)}"
            self._refuse(job.connection, job.id, 400, error)
            return
        try:
            if written and isinstance(self.engine, Resumable):
                self.engine.resume(str(job.id), job.samples[0], written)
            else:
                self.engine.add(str(job.id), job.samples[0])
        except InputError as error:
            self.engine.cancel(str(job.id))
            self._refuse(job.connection, job.id, 400, str(error))
            return
        self.streams[str(job.id)] = job

    def _step_streams(self) -> None:
        if self.engine is None or not self.engine.active:
            return
        now = time.monotonic()
        for job in [job for job in self.streams.values() if job.is_abandoned(now)]:
            self._cancel(job.id)
        self.scoreboard.begin([job.id for job in self.streams.values()])
        try:
            chunks = self.engine.step()
        except EngineError:
            raise
        except Exception as error:
            end_without_device(error)
            answer = answer_to(error)
            for job in list(self.streams.values()):
                self._refuse(job.connection, job.id, *answer)
                self._cancel(job.id)
            chunks = []
        for chunk in chunks:
            self._send_chunk(chunk)
        self.scoreboard.end()

    def _send_chunk(self, chunk: Chunk) -> None:
        job = self.streams.get(chunk.request_id)
        if job is None:
            return
        if chunk.final:
            del self.streams[chunk.request_id]
            if self.telemetry is not None:
                self.telemetry.streamed(job, time.monotonic())
        if chunk.error:
            self._refuse(job.connection, job.id, chunk.status, chunk.error)
            return
        job.deadline = time.monotonic() + job.timeout  # it is the time between two chunks
        data = {key: to_plain(value) for key, value in chunk.data.items()}
        frame = frames.Frame(frames.CHUNK, job.id, extra={"data": data, "final": chunk.final})
        self.pool.send(job.connection, frame)


def to_plain(value: Any) -> Any:
    """Converts a chunk's value to types that JSON can represent."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if "torch" in sys.modules and hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return value
