"""OpenTelemetry, with a collector that keeps what it gets."""

import gzip
import http.server
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from grpc_calls import address_of, call, request_of
from serve_harness import Running, free_port, infer_body, until, write_bundle

from cupola.errors import ConfigError
from cupola.serve.settings.file import load_settings
from lazy import LazyModule

grpc = LazyModule("grpc")
traces = LazyModule("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
metrics = LazyModule("opentelemetry.proto.collector.metrics.v1.metrics_service_pb2")
pytestmark = pytest.mark.processes
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HEADER = f"00-{TRACE}-{PARENT}-01"


class Collector:
    """Takes OTLP over HTTP. `spans` are those received; `metrics` the names."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.metrics: set[str] = set()
        self.roles: set[str] = set()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                outer.take(self.path, body)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *arguments: Any) -> None: ...

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def take(self, path: str, body: bytes) -> None:
        if path == "/v1/traces":
            for resource in traces.ExportTraceServiceRequest.FromString(body).resource_spans:
                self.roles |= {
                    pair.value.string_value
                    for pair in resource.resource.attributes
                    if pair.key == "cupola.role"
                }
                for scope in resource.scope_spans:
                    self.spans += scope.spans
        elif path == "/v1/metrics":
            for resource in metrics.ExportMetricsServiceRequest.FromString(body).resource_metrics:
                for scope in resource.scope_metrics:
                    self.metrics |= {metric.name for metric in scope.metrics}

    def of(self, trace: str) -> dict[str, Any]:
        """The spans of a trace by name."""
        return {span.name: span for span in list(self.spans) if span.trace_id.hex() == trace}

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("telemetry")
    made = [("echo", "echo"), ("speaker", "language")]
    bundles = [str(write_bundle(folder / "bundles", name, task=task)) for name, task in made]
    running = Running(
        folder, models=bundles, otel_endpoint=collector.url, otel_interval=0.5,
        grpc_listen=[f"127.0.0.1:{free_port()}"],
    )  # fmt: skip
    running.start()
    running.wait_ready()
    yield running
    running.stop()


def trace_of(number: int) -> str:
    return f"{number:032x}"


def header_of(number: int, flags: str = "01") -> dict[str, str]:
    return {"traceparent": f"00-{trace_of(number)}-{PARENT}-{flags}"}


STEPS = ("accept", "queue", "batch", "execute", "encode")


def test_a_request_is_one_trace_over_worker_and_runner(
    server: Running, collector: Collector
) -> None:
    began = time.time_ns()
    assert server.infer(headers=header_of(1), do="sleep", s=0.05)[0] == 200
    took = time.time_ns() - began
    spans = until(lambda: (f := collector.of(trace_of(1))) and len(f) == 6 and f, 20)
    root = spans["POST /v2/models/{model_name}/infer"]
    assert root.parent_span_id.hex() == PARENT and root.kind == 2  # SERVER
    for name in STEPS:
        assert spans[name].parent_span_id == root.span_id, name
        assert root.start_time_unix_nano - 2e6 <= spans[name].start_time_unix_nano
        assert spans[name].end_time_unix_nano <= root.end_time_unix_nano + 5e6, name
    starts = [spans[name].start_time_unix_nano for name in STEPS]
    assert starts == sorted(starts)
    execute = spans["execute"]
    assert 0.05e9 <= execute.end_time_unix_nano - execute.start_time_unix_nano <= took
    assert began - 2e6 <= root.start_time_unix_nano <= began + took
    assert {"worker", "runner"} <= collector.roles


def test_a_batch_is_linked_to_its_requests(server: Running, collector: Collector) -> None:
    def ask(number: int) -> None:
        do = {"do": "sleep", "s": 0.5} if number == 10 else {}
        server.infer(headers=header_of(number), **do)

    threads = [threading.Thread(target=ask, args=(number,)) for number in (10, 11, 12, 13)]
    for thread in threads:
        thread.start()
        time.sleep(0.1)
    for thread in threads:
        thread.join()

    def found() -> Any:
        batches = [span for span in list(collector.spans) if span.name == "batch"]
        linked = [{link.trace_id.hex() for link in span.links} for span in batches]
        return {trace_of(n) for n in (11, 12, 13)} in linked

    until(found, 20)
    until(lambda: len([n for n in (11, 12, 13) if "execute" in collector.of(trace_of(n))]) == 3, 20)
    executes = [collector.of(trace_of(n))["execute"] for n in (11, 12, 13)]
    assert len({execute.links[0].span_id for execute in executes}) == 1


def test_errors_streams_and_grpc(server: Running, collector: Collector) -> None:
    assert server.infer(headers=header_of(20), do="fail")[0] == 500
    body = '{"model": "speaker", "prompt": "a", "max_tokens": 3, "stream": true}'
    assert server.ask("POST", "/v1/completions", body, header_of(21))[0] == 200
    with grpc.insecure_channel(address_of(server)) as channel:
        call(channel, request_of(), metadata=list(header_of(22).items()))
    until(lambda: len(collector.of(trace_of(22))) == 6, 20)
    assert "inference.GRPCInferenceService/ModelInfer" in collector.of(trace_of(22))
    until(lambda: {"POST /v1/completions", "execute"} <= set(collector.of(trace_of(21))), 20)
    failed = until(lambda: collector.of(trace_of(20)).get("POST /v2/models/{model_name}/infer"), 20)
    assert failed.status.code == 2


def test_what_the_client_does_not_sample_is_not_recorded(
    server: Running, collector: Collector
) -> None:
    assert server.infer(headers=header_of(30, "00"))[0] == 200
    assert server.infer(headers={"traceparent": "nonsense"})[0] == 200
    server.get("/v2/health/ready")
    server.infer(headers=header_of(31))
    until(lambda: len(collector.of(trace_of(31))) == 6, 20)
    assert collector.of(trace_of(30)) == {}
    assert not [span for span in collector.spans if "health" in span.name]


def test_metrics(server: Running, collector: Collector) -> None:
    server.infer()
    wanted = {
        "http.server.request.duration", "cupola.inferences", "cupola.phase.duration",
        "cupola.queue.depth", "cupola.connections",
    }  # fmt: skip
    until(lambda: wanted <= collector.metrics, 20, str(collector.metrics))


@pytest.mark.slow
@pytest.mark.parametrize("single", [False, True])
def test_the_last_spans_are_exported_at_quit(
    tmp_path: Path, collector: Collector, single: bool
) -> None:
    server = Running(tmp_path, otel_endpoint=collector.url, master_process=not single)
    server.start()
    number = 40 + single
    try:
        until(lambda: server.pid_file.exists() and _answers(server), 60)
        server.infer(headers=header_of(number))
        server.signal(signal.SIGQUIT)
        assert server.wait_exit(30) == 0
        until(lambda: len(collector.of(trace_of(number))) == 6, 5)
    finally:
        server.stop()


def _answers(server: Running) -> bool:
    try:
        return server.get("/v2/health/ready")[0] == 200
    except OSError:
        return False


@pytest.mark.slow
def test_without_a_collector_requests_and_the_stop_are_as_fast(tmp_path: Path) -> None:
    server = Running(tmp_path, otel_endpoint=f"http://127.0.0.1:{free_port()}", otel_interval=0.2)
    server.start()
    try:
        server.wait_ready()
        for _ in range(300):
            assert server.infer()[0] == 200
        began = time.monotonic()
        server.signal(signal.SIGQUIT)
        assert server.wait_exit(30) == 0
        assert time.monotonic() - began < 20
    finally:
        server.stop()


@pytest.mark.slow
def test_nothing_is_imported_when_it_is_off() -> None:
    code = """
import sys
from cupola.serve.settings.settings import Settings
import cupola.serve.master.master, cupola.serve.runners.runner, cupola.serve.worker.worker
Settings()
loaded = {name.partition(".")[0] for name in sys.modules}
assert not loaded & {"opentelemetry", "hpack", "requests"}, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("value", ["127.0.0.1:4318", "ftp://x", "http://"])
def test_an_endpoint_that_is_none(value: str) -> None:
    with pytest.raises(ConfigError, match="otel_endpoint"):
        load_settings(flags={"otel_endpoint": value}, environment={})


def test_the_body_of_a_traced_request_is_unchanged(server: Running) -> None:
    status, fields, body = server.ask(
        "POST", "/v2/models/echo/infer", infer_body([1.0, 2.0]), header_of(50)
    )
    assert fields["traceparent"].startswith(f"00-{trace_of(50)}-")
    assert status == 200 and b'"data":[1.0,2.0]' in body


def test_a_malformed_tracestate_is_not_logged(server: Running, collector: Collector) -> None:
    headers = {**header_of(51), "tracestate": "a=1,=,no-value," + "x" * 300}
    assert server.infer(headers=headers)[0] == 200
    until(lambda: collector.of(trace_of(51)), 20)
    assert "opentelemetry:" not in server.log()
