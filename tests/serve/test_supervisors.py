"""The master and the zygote never die of a failure of the system, of a child or of a request."""

import json
import os
import resource
import select
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from serve_harness import infer_body, output, read_answer, request_bytes, until, write_bundle

from cupola.errors import ConfigError
from cupola.serve.ipc import frames
from cupola.serve.ipc.channel import Channel, Command
from cupola.serve.master.pid_file import PidFile

pytestmark = pytest.mark.processes


def fill_descriptors(pid: int) -> None:
    """Lets the process open no further file."""
    hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (lowest_free(pid), hard))


def lowest_free(pid: int) -> int:
    used = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    return next(number for number in range(10_000) if number not in used)


def free_descriptors(pid: int) -> None:
    hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))


# ---- no descriptors, no processes


def test_without_descriptors_the_master_retries_a_respawn(serve) -> None:
    server = serve(workers=2)
    master, before = server.pid, server.pids()
    fill_descriptors(master)
    os.kill(before[0], signal.SIGKILL)
    until(lambda: "cannot start a worker" in server.log())
    time.sleep(0.5)
    assert server.pid == master and server.infer()[0] == 200
    free_descriptors(master)
    until(lambda: len(server.pids()) == 2)
    server.wait_ready()


def test_without_descriptors_the_master_survives_signals(serve) -> None:
    server = serve()
    master = server.pid
    fill_descriptors(master)
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN):
        server.signal(number, master)
        time.sleep(0.2)
        assert server.infer()[0] == 200 and psutil.Process(master).is_running()
    free_descriptors(master)
    until(lambda: server.written_pid() == master)
    server.reload()
    assert server.infer()[0] == 200


def test_without_descriptors_the_zygote_retries_a_respawn(serve) -> None:
    server = serve()
    zygote, runner = server.pids("zygote")[0], server.runner_pid()
    fill_descriptors(zygote)
    os.kill(runner, signal.SIGKILL)
    until(lambda: "cannot start runner echo" in server.log())
    free_descriptors(zygote)
    until(lambda: server.infer()[0] == 200)
    assert server.pids("zygote") == [zygote]


def test_a_zygote_that_exits_with_2_after_the_start_is_respawned(serve) -> None:
    server = serve()
    zygote = server.pids("zygote")[0]
    write_bundle(server.folder / "bundles", "echo", start="missing")  # fatal for a new zygote
    os.kill(zygote, signal.SIGKILL)
    until(lambda: server.log().count("exited with code 2") >= 3)
    assert "not respawned" not in server.log()
    write_bundle(server.folder / "bundles", "echo")
    until(lambda: server.infer()[0] == 200, 30)


# ---- messages


def test_a_malformed_message_on_a_channel_is_skipped() -> None:
    ours, theirs = Channel.pair()
    theirs.socket.sendall(b"\xff" * 16 + b"\x06\0\0\0" + b"\0" * 12 + b"half")
    with socket.socket() as passed:
        socket.send_fds(theirs.socket, [b"\x05\0\0\0" + b"\0" * 8], [passed.fileno()])
    received = ours.receive() or []
    assert [message.command for message in received] == [Command.READY]
    assert not [message for message in received if message.fd is not None]
    ours.close()
    theirs.close()


MALFORMED: list[Any] = [
    b"\xff" * 200,
    frames.control("load"),  # without an id
    frames.control("load", id=1),
    frames.control("load", id=1, model=7),
    frames.control("load", id=1, model={"bundle": ["echo"]}),
    frames.control("load", id=1, model={"bundle": "x\0y"}),
    frames.control("unload", id={}, name=3, version=[]),
    frames.Frame(frames.CONTROL),
    bytes(frames.pack(frames.control("x"))[0][:-4]) + b"////",
]


def test_a_malformed_request_does_not_end_the_zygote(shared: Any) -> None:
    zygote = shared.pids("zygote")
    for request in MALFORMED:
        data = request if isinstance(request, bytes) else b"".join(frames.pack(request))
        with socket.socket(socket.AF_UNIX) as worker:
            worker.connect(str(shared.runtime / str(shared.pid) / "g1/zygote.sock"))
            worker.settimeout(5)
            worker.sendall(data)
            received = b""
            while b'"op":"done"' not in received:  # an error, or the end
                more = worker.recv(1 << 20)
                if not more:
                    break
                received += more
    assert shared.infer()[0] == 200 and shared.pids("zygote") == zygote


# ---- the pid file


def test_a_removed_pid_file_does_not_prevent_an_upgrade(serve) -> None:
    server = serve()
    old = server.pid
    server.pid_file.unlink()
    server.signal(signal.SIGUSR2, old)
    until(lambda: server.written_pid() not in (None, old), 30)
    assert Path(f"{server.pid_file}.oldbin").read_text().strip() == str(old)
    server.wait_ready()
    server.signal(signal.SIGQUIT, old)
    until(lambda: not psutil.pid_exists(old) or server.wait_exit() == 0)
    assert server.infer()[0] == 200


def test_an_unwritable_pid_file_ends_the_start_with_a_message(serve) -> None:
    server = serve(ready=False, pid_file="/proc/cupola.pid")
    assert server.wait_exit() == 2
    assert "pid_file: cannot write /proc/cupola.pid" in server.log()
    assert not server.processes()


def test_a_pid_file_is_checked_and_restored(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="it is a folder"):
        PidFile(tmp_path).check()
    with pytest.raises(ConfigError, match="No such file or directory"):
        PidFile(tmp_path / "none/pid").check()
    file = PidFile(tmp_path / "pid")
    file.check()
    assert list(tmp_path.iterdir()) == []
    file.set_aside()  # somebody has removed it
    assert file.old_path is not None and file.old_path.read_text() == f"{os.getpid()}\n"
    file.old_path.unlink()
    file.restore()
    assert (tmp_path / "pid").read_text() == f"{os.getpid()}\n"
    file.remove(upgrading=False)
    assert list(tmp_path.iterdir()) == []


# ---- reload


def answered(client: socket.socket) -> bool:
    return bool(select.select([client], [], [], 0)[0])


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a: \x01", b"[" * 5000, b"listen: [x", b"- 1"])
def test_no_settings_file_ends_the_master(shared: Any, content: bytes) -> None:
    before = shared.file.read_bytes()
    count = shared.log().count("reload refused")
    try:
        shared.file.write_bytes(content)
        shared.signal(signal.SIGHUP)
        until(lambda: shared.log().count("reload refused") > count)
    finally:
        shared.file.write_bytes(before)
    assert shared.infer()[0] == 200


def test_chained_reloads_do_not_wait_for_a_long_request(serve) -> None:
    server = serve()
    with server.raw() as client:
        client.sendall(request_bytes(infer_body(do="sleep", s=4.0)))
        time.sleep(0.2)
        server.signal(signal.SIGHUP)
        until(lambda: server.status().get("pending") == 2)
        server.signal(signal.SIGHUP)  # while the first is starting
        until(lambda: server.status().get("generation") == 3, 30)
        assert not answered(client)
        assert read_answer(client)[0] == 200


# ---- answers that do not fit, requests that kill


def test_an_answer_that_cannot_be_stored_is_an_error_of_that_request(serve) -> None:
    server = serve(ready=False)
    server.stop()
    server.runtime.mkdir(mode=0o755)
    server.start(prefix=["prlimit", "--fsize=1500000"])
    server.wait_ready()
    runner = server.runner_pid()
    status, answer = server.infer(x=[0.12345678] * 300_000)  # 1.2 MB of JSON digits each way
    assert status == 503 and "File too large" in answer["error"], answer
    assert server.infer()[0] == 200 and server.runner_pid() == runner
    spool = server.runtime / str(server.pid) / "g1/spool"
    until(lambda: not list(spool.iterdir()))


def test_a_request_that_kills_two_runners_is_set_aside_and_the_log_says_where(serve) -> None:
    server = serve()
    status, answer = server.infer(do="die")
    assert status == 500 and "crashed 2 runner processes" in answer["error"]
    line = next(line for line in server.log().splitlines() if "quarantined" in line)
    kept = Path(line.rpartition("see ")[2])
    assert json.loads(kept.read_bytes())["parameters"]["do"] == "die"
    assert kept.stat().st_mode & 0o777 == 0o600


def test_a_request_whose_answer_kills_two_runners_is_set_aside(serve) -> None:
    """Not only the model's computation, but also encoding its answer may crash the process."""
    server = serve()
    status, answer = server.infer(do="die in encode")
    assert status == 500 and "crashed 2 runner processes" in answer["error"]
    assert server.infer()[0] == 200


def test_a_quarantine_that_cannot_be_written_is_in_the_log(serve, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    server = serve(quarantine=str(tmp_path / "folder"))
    (tmp_path / "folder").rmdir()
    (tmp_path / "folder").symlink_to(tmp_path / "file")
    assert server.infer(do="die")[0] == 500
    assert f"but not kept in {tmp_path / 'folder'}" in server.log()


def test_requests_go_on_while_runners_are_killed(serve) -> None:
    """A crash that is not the fault of a request sets none aside."""
    server = serve()
    answers: list[int] = []

    def ask() -> None:
        answers.append(server.infer(do="sleep", s=0.3)[0])

    askers = [threading.Thread(target=ask) for _ in range(4)]
    for asker in askers:
        asker.start()
    time.sleep(0.1)
    os.kill(server.runner_pid(), signal.SIGKILL)
    for asker in askers:
        asker.join()
    assert answers == [200] * 4
    assert output(server.infer()[1], "y") == [1.0]
