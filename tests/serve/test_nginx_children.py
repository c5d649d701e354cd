"""nginx's process model: children, respawning and the channel (statements 8 to 11)."""

import os
import signal
import socket
import time

import pytest
from serve_harness import until, write_bundle

from cupola.serve.ipc.channel import Channel, ChannelMessage, Command
from cupola.serve.ipc.paths import is_alive
from cupola.serve.master.children import ChildKind, ChildTable

pytestmark = pytest.mark.processes


def test_nginx_08_a_child_killed_by_a_signal_is_respawned_in_its_slot(serve) -> None:
    server = serve()
    before = server.children()[0]
    os.kill(before["pid"], signal.SIGKILL)
    until(lambda: server.pids() and server.pids() != [before["pid"]])
    after = server.children()[0]
    assert (after["slot"], after["index"]) == (before["slot"], before["index"])
    server.wait_ready()
    assert server.infer()[0] == 200


def test_nginx_08_exit_code_2_is_fatal(serve) -> None:
    server = serve(workers=2)
    broken = server.folder / "nowhere"
    server.configure(working_directory=str(broken))
    before = server.pids()
    server.signal(signal.SIGHUP)  # the new workers cannot enter the folder: exit code 2
    until(lambda: "failed: its processes fail at start" in server.log())
    assert "exited with fatal code 2: not respawned" in server.log()
    until(lambda: server.pids() == before)


def test_nginx_08_the_respawn_delay_doubles_for_early_exits(serve, tmp_path) -> None:
    server = serve(respawn_delay=0.2)
    bundle = tmp_path / "server0/bundles/echo"
    write_bundle(bundle.parent, "echo", start="exit")
    os.kill(server.runner_pid(), signal.SIGKILL)
    until(lambda: server.log().count("exited with code 1") >= 4, 20)
    exits = [line for line in server.log().splitlines() if "exited with code 1" in line]
    assert len(exits) < 12  # it does not spin
    write_bundle(bundle.parent, "echo")
    until(lambda: server.infer()[0] == 200)


def test_nginx_09_kinds() -> None:
    assert ChildKind.RESPAWN.respawns and ChildKind.JUST_RESPAWN.respawns
    assert not (
        ChildKind.NORESPAWN.respawns or ChildKind.JUST_SPAWN.respawns or ChildKind.DETACHED.respawns
    )
    assert ChildKind.JUST_SPAWN.just_spawned and ChildKind.JUST_RESPAWN.just_spawned


def test_nginx_09_a_detached_child_is_never_signaled() -> None:
    parent_pipe = os.pipe()
    table = ChildTable(parent_pipe)
    child = table.add("new binary", 0, 0, lambda *_: time.sleep(60), ChildKind.DETACHED)
    for command in (Command.QUIT, Command.TERMINATE, None):
        table.signal(child, command)
    time.sleep(0.1)
    assert os.waitpid(child.pid, os.WNOHANG) == (0, 0)
    os.kill(child.pid, signal.SIGKILL)
    os.waitpid(child.pid, 0)
    table.on_exit(child)
    for end in parent_pipe:
        os.close(end)


def test_nginx_10_a_channel_carries_commands_and_descriptors() -> None:
    ours, theirs = Channel.pair()
    assert not ours.socket.getblocking() and not os.get_inheritable(ours.socket.fileno())
    with socket.socket() as passed:
        assert ours.send(ChannelMessage(Command.OPEN_CHANNEL, 3, 77, 1, passed.fileno()))
        assert ours.send(ChannelMessage(Command.REOPEN))
        opened, reopen = theirs.receive() or []
    assert (opened.slot, opened.pid, reopen.command) == (3, 77, Command.REOPEN)
    assert opened.fd is not None and os.fstat(opened.fd)
    os.close(opened.fd)
    assert theirs.receive() == []
    ours.close()
    assert theirs.receive() is None
    theirs.close()


def test_nginx_10_a_failed_write_falls_back_to_kill() -> None:
    ours, theirs = Channel.pair()
    while ours.send(ChannelMessage(Command.REOPEN)):
        pass
    parent_pipe = os.pipe()
    table = ChildTable(parent_pipe)
    child = table.add("worker", 0, 1, lambda *_: time.sleep(60), ChildKind.RESPAWN)
    assert child.channel is not None
    child.channel.close()
    child.channel = ours  # full
    table.signal(child, Command.TERMINATE)
    _, status = os.waitpid(child.pid, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGTERM
    for end in parent_pipe:
        os.close(end)
    ours.close()
    theirs.close()


def test_nginx_10_workers_receive_each_others_channels(serve) -> None:
    server = serve(workers=2)

    def sockets(pid: int) -> int:
        links = [os.readlink(f"/proc/{pid}/fd/{n}") for n in os.listdir(f"/proc/{pid}/fd")]
        return sum(link.startswith("socket:") for link in links)

    first = server.pids()[0]
    before = sockets(first)
    for _ in range(3):
        os.kill(server.pids()[1], signal.SIGKILL)
        old = server.pids()[1]
        until(lambda old=old: len(server.pids()) == 2 and server.pids()[1] != old)
        until(lambda: all(c["state"] == "ready" for c in server.children()))
    assert sockets(first) <= before + 1  # CLOSE_CHANNEL closed those of the dead


def test_nginx_11_children_stop_when_the_master_dies(serve) -> None:
    server = serve()
    family = [*server.pids(), *server.pids("zygote"), server.runner_pid()]
    server.signal(signal.SIGKILL)
    server.wait_exit()
    until(lambda: not any(map(is_alive, family)))
