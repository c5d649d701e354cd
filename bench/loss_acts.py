"""What happens to the server while clients send requests: one function per act."""

import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "serve"))
from serve_harness import Running, until, write_bundle

BROKEN = itertools.cycle(("syntax", "missing", "import", "memory", "exit", "hang"))
BUSY_SECONDS = 2.0


def calm(server: Running) -> None:
    time.sleep(0.5)


def reload(server: Running) -> None:
    server.reload()


def upgrade(server: Running) -> None:
    """Starts a new binary and stops the old one."""
    old, _ = _start_new_binary(server)
    os.kill(old, signal.SIGQUIT)
    until(lambda: not Path(f"/proc/{old}").exists(), 60)


def rollback(server: Running) -> None:
    """Starts a new binary and returns to the old one."""
    old, new = _start_new_binary(server)
    os.kill(old, signal.SIGHUP)
    until(lambda: any(c["state"] == "ready" for c in server.children("worker", old)), 60)
    os.kill(new, signal.SIGQUIT)
    until(lambda: server.pid_file.exists() and server.pid == old, 60)
    until(lambda: not Path(f"/proc/{new}").exists(), 60)


def _start_new_binary(server: Running) -> tuple[int, int]:
    old = server.pid
    server.signal(signal.SIGUSR2)
    until(lambda: server.pid_file.exists() and server.pid != old, 60)
    new = server.pid
    until(lambda: server.status(new).get("generation"), 60)
    os.kill(old, signal.SIGWINCH)
    until(lambda: not server.children("worker", old), 60)
    return old, new


def runner(server: Running) -> None:
    """Kills a runner and waits for its respawn."""
    old = server.runner_pid()
    with contextlib.suppress(ProcessLookupError):
        os.kill(old, signal.SIGKILL)
    until(lambda: server.runner_pid() != old, 60)
    time.sleep(0.1)


def recycle(server: Running) -> None:
    """Lets a runner reach `runner_max_requests` and waits for its replacement."""
    server.configure(runner_max_requests=200)
    server.reload()
    until(lambda: any(runner["recycles"] for runner in server.runners()), 60)
    del server.settings["runner_max_requests"]
    server.configure()
    server.reload()


def hang(server: Running) -> None:
    """Starts a reload that hangs, and another one, which takes its place."""
    bundle = Path(server.settings["models"][0])
    config = json.loads((bundle / "config.json").read_text())
    (bundle / "config.json").write_text(json.dumps({**config, "start": "hang", "task": "echo"}))
    server.signal(signal.SIGHUP)
    until(lambda: server.status().get("pending"), 60)
    time.sleep(0.3)
    (bundle / "config.json").write_text(json.dumps(config))
    server.reload()


def worker(server: Running) -> None:
    """Kills a worker, which breaks the connections of its clients."""
    count = len(server.pids())
    old = random.choice(server.pids())
    os.kill(old, signal.SIGKILL)
    until(lambda: old not in server.pids() and len(server.pids()) == count, 60)
    time.sleep(0.1)


def broken(server: Running) -> None:
    """An invalid deployment, of a different kind each time."""
    how, good, before = next(BROKEN), server.file.read_text(), _times_refused(server)
    if how == "syntax":
        server.file.write_text("listen: [")
    else:
        write_bundle(server.folder / "bundles", "echo", start=how)
    server.signal(signal.SIGHUP)
    until(lambda: _times_refused(server) > before, 60)
    write_bundle(server.folder / "bundles", "echo")
    server.file.write_text(good)


def _times_refused(server: Running) -> int:
    log = server.log()
    return log.count("reload refused") + log.count(" failed: it")


def rotate(server: Running) -> None:
    """Renames the logs and reopens them."""
    access = Path(server.settings["access_log"])
    for log in (server.log_file, access):
        log.rename(f"{log}.{time.time_ns()}")
    server.signal(signal.SIGUSR1)
    until(lambda: access.exists() and server.log_file.exists())


def disk(server: Running) -> None:
    """Makes all further writes to the error log fail; the access log is not affected."""
    if not server.log_file.is_symlink():
        server.log_file.unlink(missing_ok=True)
        server.log_file.symlink_to("/dev/full")
        server.signal(signal.SIGUSR1)
    time.sleep(0.5)


def busy(server: Running) -> None:
    """A busy loop of low priority beside the server, for comparison with `stall`."""
    loop = f"import os, time\nos.nice(10)\nend = time.time() + {BUSY_SECONDS}\n"
    subprocess.run([sys.executable, "-c", f"{loop}while time.time() < end: pass"], check=True)


def stall(server: Running) -> None:
    """A reload of a model that computes while it loads."""
    write_bundle(server.folder / "bundles", "echo", load_spin=BUSY_SECONDS)
    server.reload()
    write_bundle(server.folder / "bundles", "echo")


ACTS: dict[str, Callable[[Running], None]] = {
    act.__name__: act
    for act in (
        calm,
        reload,
        upgrade,
        rollback,
        runner,
        recycle,
        hang,
        worker,
        broken,
        rotate,
        busy,
        stall,
        disk,
    )
}
