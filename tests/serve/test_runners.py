"""Zygote and runners: crashes, replays, batches, queues, deadlines, cancellation, versions."""

import json
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from serve_harness import infer_body, output, read_answer, request_bytes, until, write_bundle

pytestmark = pytest.mark.processes
ECHO = "/v2/models/echo/infer"


def test_no_request_is_lost_when_a_runner_is_killed(serve) -> None:
    server = serve(workers=2)
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(server.infer, "echo", [float(n)]) for n in range(40)]
        for _ in range(3):
            os.kill(server.runner_pid(), signal.SIGKILL)
            time.sleep(0.15)
            asked += [pool.submit(server.infer, "echo", [float(n)]) for n in range(40)]
        answers = [future.result() for future in asked]
    assert [status for status, _ in answers] == [200] * 160
    assert [output(a, "y")[0] for _, a in answers] == [float(n % 40) for n in range(160)]


def test_a_request_that_crashes_two_runners_is_quarantined(serve, tmp_path) -> None:
    server = serve(quarantine=str(tmp_path / "aside"), batch_delay=0.2)
    with ThreadPoolExecutor(4) as pool:
        killer = pool.submit(server.infer, do="die")
        innocent = [pool.submit(server.infer, "echo", [7.0]) for _ in range(3)]
        assert [f.result()[0] for f in innocent] == [200] * 3
        status, answer = killer.result()
    assert status == 500 and "crashed 2 runner processes" in answer["error"]
    (body,) = (tmp_path / "aside").glob("*.body")
    assert json.loads(body.read_bytes())["parameters"] == {"do": "die"}


def test_a_hanging_runner_is_killed_and_its_requests_replayed(serve) -> None:
    server = serve(hang_timeout=1.0)
    hung = server.runner_pid()
    os.kill(hung, signal.SIGSTOP)
    assert server.infer()[0] == 200
    assert server.runner_pid() != hung


def test_a_stopped_runner_gets_no_requests_after_two_deadlines(serve, tmp_path) -> None:
    """Half of the clients waited for their deadline for as long as one of two runners hung."""
    bundle = str(write_bundle(tmp_path, "echo"))
    server = serve(models=[{"bundle": bundle, "runners": 2}], hang_timeout=300.0)
    stopped = server.runner_pid()
    os.kill(stopped, signal.SIGSTOP)
    try:
        body, impatient = infer_body(), {"X-Request-Timeout": "0.5"}
        first = [server.ask("POST", ECHO, body, impatient)[0] for _ in range(12)]
        assert first.count(504) <= 2 and first[-6:] == [200] * 6
    finally:
        os.kill(stopped, signal.SIGCONT)
    with ThreadPoolExecutor(4) as pool:  # it is used again
        many = [pool.submit(server.infer, "echo", do="sleep", s=0.2) for _ in range(16)]
        assert [found.result()[0] for found in many] == [200] * 16


def test_health_reports_a_hung_or_dead_runner(serve) -> None:
    server = serve(hang_timeout=1.0, respawn_delay=1.0, respawn_delay_max=1.0)
    pid = server.runner_pid()
    write_bundle(server.folder / "bundles", "echo", start="exit")
    os.kill(pid, signal.SIGKILL)
    until(lambda: server.get("/v2/health/ready")[0] == 503)
    assert server.get("/v2/health/live")[0] == 200
    assert server.get("/v2/models/echo/ready")[0] == 503
    write_bundle(server.folder / "bundles", "echo")
    until(lambda: server.get("/v2/health/ready")[0] == 200)


def test_a_runner_survives_the_zygote(serve) -> None:
    server = serve()
    runner, zygote = server.runner_pid(), server.pids("zygote")[0]
    os.kill(zygote, signal.SIGKILL)
    assert server.infer()[0] == 200
    until(lambda: server.pids("zygote") not in ([], [zygote]))
    until(lambda: not psutil.pid_exists(runner))  # the new zygote's runner has taken over
    assert server.infer()[0] == 200


def test_equal_shapes_run_together(serve) -> None:
    server = serve(batch_delay=0.3, max_batch=4)
    with ThreadPoolExecutor(6) as pool:
        same = [pool.submit(server.infer, "echo", [1.0, 2.0]) for _ in range(4)]
        other = [pool.submit(server.infer, "echo", [1.0]) for _ in range(2)]
        assert {output(f.result()[1], "batch")[0] for f in same} == {4}
        assert {output(f.result()[1], "batch")[0] for f in other} == {2}


def test_a_bad_sample_does_not_spoil_its_batch(serve) -> None:
    server = serve(batch_delay=0.2)
    with ThreadPoolExecutor(3) as pool:
        bad = pool.submit(server.infer, do="fail")
        good = [pool.submit(server.infer) for _ in range(2)]
        assert bad.result()[0] == 500 and "told to fail" in bad.result()[1]["error"]
        assert [f.result()[0] for f in good] == [200, 200]


def test_a_full_queue_is_answered_429_with_retry_after(serve) -> None:
    server = serve(queue_limit=2)
    with ThreadPoolExecutor(2) as pool:
        held = [pool.submit(server.infer, do="sleep", s=0.5) for _ in range(2)]
        time.sleep(0.2)
        status, headers, _ = server.ask("POST", "/v2/models/echo/infer", infer_body())
        assert status == 429 and int(headers["retry-after"]) >= 1
        assert [f.result()[0] for f in held] == [200, 200]


def test_the_queue_limit_applies_to_all_workers_together(serve) -> None:
    server = serve(workers=3, queue_limit=3)
    held = [server.raw() for _ in range(3)]
    for client in held:
        client.sendall(request_bytes(infer_body(do="sleep", s=0.8)))
    time.sleep(0.2)
    with ThreadPoolExecutor(6) as pool:
        further = [pool.submit(server.infer) for _ in range(6)]
        assert {f.result()[0] for f in further} == {429}
    assert [read_answer(client)[0] for client in held] == [200] * 3
    killed = server.raw()  # requests of a killed worker are no longer counted
    killed.sendall(request_bytes(infer_body(do="sleep", s=0.5)))
    time.sleep(0.1)
    for pid in server.pids():
        os.kill(pid, signal.SIGKILL)
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(server.infer) for _ in range(3)]
        assert {f.result()[0] for f in asked} == {200}
    for client in (*held, killed):
        client.close()


def test_a_missed_deadline_is_answered_504(serve) -> None:
    server = serve()
    holding = threading.Thread(target=server.infer, kwargs={"do": "sleep", "s": 0.8})
    holding.start()
    time.sleep(0.1)
    status, answer = server.infer(headers={"X-Request-Timeout": "0.2"})
    assert status == 504 and "no answer within 0.2 s" in answer["error"]
    holding.join()
    metrics = server.get("/metrics")[1].decode()
    assert 'cupola_inferences_total{model="echo",outcome="504",version="1"} 1.0' in metrics
    assert server.infer(headers={"X-Request-Timeout": "soon"})[0] == 400


def test_requests_of_disconnected_clients_are_not_computed(serve) -> None:
    server = serve(max_batch=1)
    holding = threading.Thread(target=server.infer, kwargs={"do": "sleep", "s": 0.5})
    holding.start()
    time.sleep(0.1)
    for _ in range(3):
        with server.raw() as leaving:
            leaving.sendall(request_bytes(infer_body(do="sleep", s=2)))
            time.sleep(0.05)
    began = time.monotonic()
    holding.join()
    assert server.infer()[0] == 200
    assert time.monotonic() - began < 1.5


def test_a_version_is_verified_before_it_serves(serve) -> None:
    server = serve(admin="on")
    path = write_bundle(server.folder / "bundles", "echo", version="2", offset=1, folder="two")
    example = path / "example"
    example.mkdir()
    (example / "request.json").write_text(infer_body([1.0]))
    recorded = {"outputs": [{"name": "y", "datatype": "FP32", "shape": [1], "data": [5.0]}]}
    (example / "response.json").write_text(json.dumps(recorded))
    load = json.dumps({"parameters": {"bundle": str(path)}})
    status, _, body = server.ask("POST", "/v2/repository/models/echo/load", load)
    assert status == 400 and "differs from the answer recorded" in json.loads(body)["error"]
    assert output(server.infer()[1], "y") == [1.0]
    recorded["outputs"][0]["data"] = [2.0]
    (example / "response.json").write_text(json.dumps(recorded))
    assert server.ask("POST", "/v2/repository/models/echo/load", load)[0] == 200
    assert output(server.infer()[1], "y") == [2.0]
    assert server.get("/v2/models/echo")[1]["versions"] == ["1", "2"]


def test_a_load_survives_the_loss_of_its_client_and_worker(serve) -> None:
    server = serve(admin="on", workers=1)
    zygote = server.pids("zygote")
    path = write_bundle(server.folder / "bundles", "late", load_seconds=1.0)
    load = json.dumps({"parameters": {"bundle": str(path)}})
    with server.raw() as client:
        json_type = "Content-Type: application/json\r\n"
        client.sendall(request_bytes(load, "/v2/repository/models/late/load", json_type))
        time.sleep(0.3)
        os.kill(server.pids()[0], signal.SIGKILL)
    until(lambda: server.infer("late")[0] == 200)
    assert server.pids("zygote") == zygote and server.infer()[0] == 200


def test_a_load_with_unknown_parameters_is_refused(serve) -> None:
    server = serve(admin="on")
    zygote = server.pids("zygote")
    load = json.dumps({"parameters": {"runers": 2}})
    status, _, body = server.ask("POST", "/v2/repository/models/echo/load", load)
    assert status == 400
    assert json.loads(body)["error"] == "unknown setting 'runers'; did you mean 'runners'?"
    assert server.pids("zygote") == zygote and server.infer()[0] == 200


def test_admin_is_off_by_default(serve) -> None:
    server = serve()
    assert server.ask("POST", "/v2/repository/models/echo/unload")[0] == 403
    assert server.ask("POST", "/admin/reload")[0] == 403


def test_admin_on_a_separate_socket(serve, short_folder) -> None:
    path = f"{short_folder}/admin.sock"
    server = serve(admin=f"unix:{path}")
    assert server.ask("POST", "/v2/repository/models/echo/unload")[0] == 403
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        client.sendall(b"POST /v2/repository/models/echo/unload HTTP/1.1\r\nHost: t\r\n\r\n")
        assert read_answer(client)[0] == 200
    assert server.infer()[0] == 404


def test_the_cache_computes_equal_requests_once_and_survives_damage(serve, tmp_path) -> None:
    folder = tmp_path / "cache"
    bundle = write_bundle(tmp_path / "b", "echo")
    server = serve(
        models=[{"bundle": str(bundle), "cache": True}], cache_path=str(folder), workers=2
    )
    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(server.infer, do="sleep", s=0.4) for _ in range(6)]
        assert {f.result()[0] for f in asked} == {200}
    entries = [p for p in folder.glob("?/??/*") if not p.suffix]
    assert len(entries) == 1
    began = time.monotonic()
    assert server.infer(do="sleep", s=0.4)[0] == 200
    assert time.monotonic() - began < 0.3
    raw = entries[0].read_bytes()
    for damaged in (raw[:-3], raw[:-1] + b"!", b""):
        entries[0].write_bytes(damaged)
        status, answer = server.infer(do="sleep", s=0.4)
        assert status == 200 and output(answer, "y") == [1.0]
        assert entries[0].read_bytes() != damaged


def test_metrics_cover_all_workers_and_survive_a_crash(serve) -> None:
    server = serve(workers=2)
    for _ in range(10):
        server.infer()
    counted = 'cupola_inferences_total{model="echo",outcome="ok",version="1"} 10.0'
    until(lambda: counted in server.get("/metrics")[1].decode())  # it counts after it answers
    killed = server.pids()[0]
    os.kill(killed, signal.SIGKILL)
    until(lambda: killed not in server.pids() and len(server.pids()) == 2)
    text = server.get("/metrics")[1].decode()
    assert counted in text
    for phase in ("queue", "batch", "run", "encode"):
        assert (
            f'cupola_phase_seconds_count{{model="echo",phase="{phase}",version="1"}} 10.0' in text
        )
    assert 'cupola_respawns_total{role="worker"} 1' in text
