"""gRPC with unmodified clients: tritonclient, grpcio, its health checking and reflection."""

import gzip
import os
import queue
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grpc_calls import SERVICE, address_of, call, failure, request_of
from serve_harness import Running, free_port, until, write_bundle

from cupola.serve.grpc.messages import message
from lazy import LazyModule

grpc = LazyModule("grpc")
triton = LazyModule("tritonclient.grpc")
pytestmark = pytest.mark.processes


def start(folder: Path, **settings: Any) -> Running:
    address = f"127.0.0.1:{free_port()}"
    made = [
        ("echo", "echo"),
        ("counter", "counter"),
        ("speaker", "language"),
        ("finder", "detection"),
    ]
    bundles = [str(write_bundle(folder / "bundles", name, task=task)) for name, task in made]
    running = Running(folder, **{"models": bundles, "grpc_listen": [address], **settings})
    running.start()
    running.wait_ready()
    return running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("grpc")
    log = str(folder / "access.log")
    running = start(folder, admin="on", max_body=4_000_000, access_log=log)
    yield running
    running.stop()


@pytest.fixture
def client(server: Running) -> Iterator[Any]:
    made = triton.InferenceServerClient(address_of(server))
    yield made
    made.close()


@pytest.fixture
def channel(server: Running) -> Iterator[Any]:
    with grpc.insecure_channel(address_of(server)) as made:
        yield made


def tensor(name: str, values: Any, datatype: str) -> Any:
    data = np.asarray(values)
    made = triton.InferInput(name, list(data.shape), datatype)
    made.set_data_from_numpy(data)
    return made


def x_input(*values: float) -> Any:
    return tensor("x", np.array(values, np.float32), "FP32")


# ---- tritonclient


def test_health_and_metadata(client: Any) -> None:
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("echo")
    assert client.get_server_metadata().name == "cupola"
    metadata = client.get_model_metadata("echo", as_json=True)
    assert metadata["inputs"][0] == {"name": "x", "datatype": "FP32", "shape": ["-1"]}
    config = client.get_model_config("speaker").config
    assert config.model_transaction_policy.decoupled and config.backend == "cupola"
    assert {m.name for m in client.get_model_repository_index().models} >= {"echo", "speaker"}
    client.infer("echo", [x_input(1.0)])
    stats = client.get_inference_statistics("echo").model_stats[0]
    assert stats.inference_count >= 1 and stats.inference_stats.success.ns > 0


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_infer(client: Any, compression: str | None) -> None:
    values = np.linspace(0, 1, 2000, dtype=np.float32)
    texts = np.array([b"a", b"\xff\x00", b""], dtype=object)
    answer = client.infer(
        "echo",
        [tensor("x", values, "FP32"), tensor("text", texts, "BYTES")],
        outputs=[triton.InferRequestedOutput("y"), triton.InferRequestedOutput("text")],
        request_id="seven",
        compression_algorithm=compression,
    )
    np.testing.assert_array_equal(answer.as_numpy("y"), values)
    assert answer.as_numpy("text").tolist() == texts.tolist()
    assert answer.get_response().id == "seven"
    assert [output.name for output in answer.get_response().outputs] == ["y", "text"]


def test_a_large_tensor_passes_through_shared_memory(server: Running, client: Any) -> None:
    values = np.arange(600_000, dtype=np.float32)  # 2.4 MB both ways
    np.testing.assert_array_equal(
        client.infer(
            "echo",
            [
                x_input(*values[:1]),
            ],
        ).as_numpy("y"),
        [0],
    )
    answer = client.infer("echo", [tensor("x", values, "FP32")])
    np.testing.assert_array_equal(answer.as_numpy("y"), values)
    assert not list(Path(server.runtime).rglob("spool/*"))


def test_async_infer_and_its_cancellation(client: Any) -> None:
    done: queue.Queue[Any] = queue.Queue()
    client.async_infer(
        "echo", [x_input(2.0)], callback=lambda result, error: done.put((result, error))
    )
    result, error = done.get(timeout=20)
    assert error is None and result.as_numpy("y").tolist() == [2.0]
    slow = {"do": "sleep", "s": 0.5}
    held = client.async_infer(
        "echo",
        [x_input(3.0)],
        callback=lambda result, error: done.put((result, error)),
        parameters=slow,
    )
    held.cancel()
    assert "Locally cancelled" in str(done.get(timeout=20)[1])


def test_a_stream_answers_in_order_and_survives_errors(client: Any) -> None:
    found: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: found.put((result, error)))
    for number in range(20):
        do = {"do": "sleep", "s": 0.05} if number == 0 else {}
        client.async_stream_infer(
            "echo", [x_input(float(number))], request_id=str(number), parameters=do
        )
    answers = [found.get(timeout=20) for _ in range(20)]
    assert [result.get_response().id for result, _ in answers] == [str(n) for n in range(20)]
    client.async_stream_infer("nowhere", [x_input(1.0)])
    assert "unknown model 'nowhere'" in str(found.get(timeout=20)[1])
    text = tensor("text", np.array([b"say"], dtype=object), "BYTES")
    client.async_stream_infer("speaker", [text], request_id="s", parameters={"max_tokens": 3})
    chunks = [found.get(timeout=20)[0] for _ in range(3)]
    assert b"".join(c.as_numpy("text")[0] for c in chunks) == b"w0 w1 w2 "
    final = [c.get_response().parameters["triton_final_response"].bool_param for c in chunks]
    assert final == [False, False, True] and chunks[0].as_numpy("token_id").tolist() == [0]
    client.stop_stream()


@pytest.mark.parametrize("name", ["camera", 7])
def test_sequences(client: Any, name: Any) -> None:
    sums = [
        client.infer(
            "counter", [x_input(float(n))], sequence_id=name, sequence_start=n == 1,
            sequence_end=n == 3,
        ).as_numpy("y")[0]
        for n in (1, 2, 3)
    ]  # fmt: skip
    assert sums == [1, 3, 6]
    with pytest.raises(triton.InferenceServerException, match="INVALID_ARGUMENT"):
        client.infer("counter", [x_input(1.0)], sequence_id=name)


def test_admin_loads_and_unloads(server: Running, client: Any, channel: Any) -> None:
    bundle = write_bundle(server.folder / "more", "late")
    request = message("RepositoryModelLoadRequest")(model_name="late")
    request.parameters["bundle"].string_param = str(bundle)
    call(channel, request, "RepositoryModelLoad")
    assert client.infer("late", [x_input(1.0)]).as_numpy("y").tolist() == [1.0]
    client.unload_model("late")
    until(lambda: failure(channel, request_of("late"))[0] == "NOT_FOUND")


# ---- tensors and errors, with plain messages


def typed(datatype: str, field: str, values: list[Any], name: str = "ids") -> Any:
    request = message("ModelInferRequest")(model_name="echo")
    made = request.inputs.add(name=name, datatype=datatype, shape=[1, len(values)])
    getattr(made.contents, field).extend(values)
    return request


def test_typed_contents(channel: Any) -> None:
    answer = call(channel, typed("INT64", "int64_contents", [1, -2, 2**62]))
    at = [output.name for output in answer.outputs].index("ids")
    found = np.frombuffer(answer.raw_output_contents[at], "<i8").tolist()
    assert found == [1, -2, 2**62] and list(answer.outputs[at].shape) == [1, 3]


def truncated(request: Any) -> bytes:
    return bytes(request.SerializeToString()[:-1])


ERRORS = {
    "unknown model": (request_of("ech"), "NOT_FOUND", "did you mean 'echo'"),
    "no inputs": (message("ModelInferRequest")(model_name="echo"), "INVALID_ARGUMENT", "nothing"),
    "truncated": (truncated(request_of()), "INVALID_ARGUMENT", "truncated"),
    "no message": (b"\xff" * 20, "INVALID_ARGUMENT", "damaged"),
    "wrong field": (typed("INT64", "fp32_contents", [1.0]), "INVALID_ARGUMENT", "int64_contents"),
    "half": (typed("FP16", "fp32_contents", [1.0]), "INVALID_ARGUMENT", "raw_input_contents only"),
    "overflow": (typed("INT8", "int_contents", [300]), "INVALID_ARGUMENT", "out of range"),
    "no type": (typed("FP31", "fp32_contents", [1.0]), "INVALID_ARGUMENT", "did you mean 'FP32'"),
    "unknown input": (typed("INT64", "int64_contents", [1], "idz"), "INVALID_ARGUMENT", "'ids'"),
    "failed": (request_of(do="fail"), "INTERNAL", "RuntimeError: told to fail"),
    "sequence": (request_of(sequence_id="a"), "INVALID_ARGUMENT", "has no state"),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_errors(channel: Any, name: str) -> None:
    request, code, text = ERRORS[name]
    found = failure(channel, request)
    assert found[0] == code and text in found[1], found
    assert call(channel, request_of()).model_name == "echo"


def test_raw_and_typed_contents_together_are_an_error(channel: Any) -> None:
    request = request_of()
    request.inputs[0].contents.fp32_contents.append(1.0)
    assert failure(channel, request) == (
        "INVALID_ARGUMENT", "input 'x': both contents and raw_input_contents"
    )  # fmt: skip
    request = request_of()
    request.raw_input_contents.append(b"")
    assert "2 raw_input_contents for 1 inputs" in failure(channel, request)[1]


def test_shared_memory_is_refused(client: Any) -> None:
    made = triton.InferInput("x", [1], "FP32")
    made.set_shared_memory("region", 4)
    with pytest.raises(triton.InferenceServerException, match="shared memory"):
        client.infer("echo", [made])


def test_classification_is_refused(client: Any) -> None:
    wanted = [triton.InferRequestedOutput("y", class_count=2)]
    with pytest.raises(triton.InferenceServerException, match="classification is not supported"):
        client.infer("echo", [x_input(1.0)], outputs=wanted)


def test_the_size_limit(channel: Any) -> None:
    request = request_of(values=np.zeros(1_100_000, np.float32))
    code, text = failure(channel, request)
    assert code == "RESOURCE_EXHAUSTED" and "at most 4000000" in text


def test_a_small_message_that_unpacks_to_too_much(channel: Any) -> None:
    packed = gzip.compress(bytes(5_000_000))
    made = channel.unary_unary(SERVICE + "ModelInfer")
    with pytest.raises(grpc.RpcError) as raised:  # the library packs it once more: not gzip's bomb
        made(packed, compression=grpc.Compression.Gzip)
    assert raised.value.code().name == "INVALID_ARGUMENT"
    with pytest.raises(grpc.RpcError) as raised:
        made(bytes(5_000_000), compression=grpc.Compression.Gzip)
    assert "decompresses to more than" in raised.value.details()


def test_an_image_with_too_many_pixels_is_refused_by_the_worker(channel: Any) -> None:
    head = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (30_000).to_bytes(4, "big") * 2 + bytes(100)
    for form in ("raw", "contents"):
        request = message("ModelInferRequest")(model_name="finder")
        made = request.inputs.add(name="image", datatype="BYTES", shape=[1])
        if form == "raw":
            request.raw_input_contents.append(len(head).to_bytes(4, "little") + head)
        else:
            made.contents.bytes_contents.append(head)
        assert failure(channel, request)[0] == "RESOURCE_EXHAUSTED"


def test_deadlines(server: Running, channel: Any) -> None:
    began = time.monotonic()
    assert failure(channel, request_of(do="sleep", s=1.0), timeout=0.2)[0] == "DEADLINE_EXCEEDED"
    assert time.monotonic() - began < 0.9
    # the server's own, when the client does not enforce one
    found = failure(channel, request_of(do="sleep", s=0.6), metadata=[("x-request-timeout", "0.1")])
    assert found == ("DEADLINE_EXCEEDED", "echo: no answer within 0.1 s")


def test_a_cancelled_call_frees_the_runner(server: Running, channel: Any) -> None:
    made = channel.unary_unary(
        SERVICE + "ModelInfer", request_serializer=lambda m: m.SerializeToString()
    )
    held = [made.future(request_of(do="sleep", s=0.3)) for _ in range(20)]
    time.sleep(0.1)
    for one in held:
        one.cancel()
    began = time.monotonic()
    call(channel, request_of())
    assert time.monotonic() - began < 3.0  # not 6 s


def test_unknown_methods(channel: Any) -> None:
    for path in (SERVICE + "Nothing", "/other.Service/Method"):
        with pytest.raises(grpc.RpcError) as raised:
            channel.unary_unary(path)(b"")
        assert raised.value.code().name == "UNIMPLEMENTED"


# ---- health and reflection


def test_health_checking(server: Running, channel: Any) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    stub = health_pb2_grpc.HealthStub(channel)
    asked = health_pb2.HealthCheckRequest
    for name in ("", "inference.GRPCInferenceService", "echo"):
        assert stub.Check(asked(service=name)).status == 1
    with pytest.raises(grpc.RpcError) as raised:
        stub.Check(asked(service="nowhere"))
    assert raised.value.code().name == "NOT_FOUND"
    assert stub.List(health_pb2.HealthListRequest()).statuses["echo"].status == 1
    watched = stub.Watch(asked(service="late"))
    assert next(watched).status == 3  # SERVICE_UNKNOWN
    bundle = write_bundle(server.folder / "more", "late")
    request = message("RepositoryModelLoadRequest")(model_name="late")
    request.parameters["bundle"].string_param = str(bundle)
    call(channel, request, "RepositoryModelLoad")
    assert next(watched).status in (1, 2)
    watched.cancel()


def test_reflection(channel: Any) -> None:
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
        ProtoReflectionDescriptorDatabase,
    )

    database = ProtoReflectionDescriptorDatabase(channel)
    assert "inference.GRPCInferenceService" in database.get_services()
    file = database.FindFileContainingSymbol("inference.ModelInferRequest")
    assert file.package == "inference" and file.service[0].method[0].name == "ServerLive"
    assert database.FindFileByName("health.proto").package == "grpc.health.v1"
    with pytest.raises(KeyError):
        database.FindFileContainingSymbol("inference.Nothing")


# ---- logs, reload, crash


def test_calls_are_logged_and_counted(server: Running, channel: Any) -> None:
    log = Path(server.settings["access_log"])
    for model in ("echo", "nowhere"):
        made = channel.unary_unary(SERVICE + "ModelInfer")
        metadata = [("x-request-id", f"logged-{model}")]
        with suppress(grpc.RpcError):
            made(request_of(model).SerializeToString(), metadata=metadata)
    until(lambda: "logged-nowhere" in log.read_text())
    first, second = [line for line in log.read_text().splitlines() if " logged-" in line]
    assert '"POST /inference.GRPCInferenceService/ModelInfer" 200' in first
    assert "grpc-python" in first and '" 404 ' in second
    until(lambda: b'cupola_inferences_total{model="echo",outcome="ok"' in server.get("/metrics")[1])


class Load:
    """Clients that call all the time: on one channel, and with a new channel for each call."""

    def __init__(self, server: Running, clients: int = 4) -> None:
        self.failures: list[Any] = []
        self.calls, self._stop, self._server = 0, threading.Event(), server
        targets = [self._keep, self._renew, self._stream] * clients
        self._threads = [threading.Thread(target=t) for t in targets[: 3 * clients // 2]]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _channel(self) -> Any:
        own = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        return grpc.insecure_channel(address_of(self._server), options=own)

    def _call(self, channel: Any) -> None:
        try:
            call(channel, request_of(values=[3.0]), timeout=30)
            self.calls += 1
        except grpc.RpcError as error:
            self.failures.append((error.code(), error.details()))

    def _keep(self) -> None:
        with self._channel() as channel:
            while not self._stop.is_set():
                self._call(channel)

    def _renew(self) -> None:
        while not self._stop.is_set():
            with self._channel() as channel:
                self._call(channel)

    def _stream(self) -> None:
        """Streams of 20 requests each."""
        with self._channel() as channel:
            made = channel.stream_stream(
                SERVICE + "ModelStreamInfer",
                request_serializer=lambda m: m.SerializeToString(),
                response_deserializer=message("ModelStreamInferResponse").FromString,
            )
            while not self._stop.is_set():
                try:
                    answers = list(made(iter([request_of()] * 20), timeout=30))
                    wrong = [a.error_message for a in answers if a.error_message]
                    if wrong or len(answers) != 20:
                        self.failures.append((len(answers), wrong))
                    self.calls += len(answers)
                except grpc.RpcError as error:
                    self.failures.append((error.code(), error.details()))


@pytest.mark.slow
def test_no_call_is_lost_over_reloads_and_crashes(tmp_path: Path) -> None:
    server = start(tmp_path, workers=2)
    try:
        with Load(server) as load:
            for _ in range(3):
                time.sleep(0.3)
                server.reload()
            os.kill(server.runner_pid(), signal.SIGKILL)
            time.sleep(0.5)
        assert load.failures == [] and load.calls > 50
        until(lambda: len(server.pids()) == 2)  # the old workers have ended
    finally:
        server.stop()


@pytest.mark.slow
def test_a_call_that_runs_when_the_server_quits_is_answered(tmp_path: Path) -> None:
    server = start(tmp_path)
    try:
        with grpc.insecure_channel(address_of(server)) as channel:
            call(channel, request_of())
            made = channel.unary_unary(
                SERVICE + "ModelInfer", request_serializer=lambda m: m.SerializeToString()
            )
            held = made.future(request_of(do="sleep", s=1.0))
            time.sleep(0.3)
            server.signal(signal.SIGQUIT)
            assert held.result(timeout=20)
        assert server.wait_exit(20) == 0
    finally:
        server.stop()
