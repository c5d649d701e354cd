"""Builds and runs an image of a Dockerfile without a builder: `python container_steps.py FILE`.

FILE is JSON: `stages` (each a list of [instruction, text]), `context` (a folder), `args` of the
build, `folder` (for the image), `request` (a command in the container). Root runs it in namespaces
of its own (`unshare -m -p -f`). The base image is this machine's own file system, over which each
stage writes a layer.
"""

import ctypes
import fcntl
import glob
import json
import os
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SHM = "256m"  # of the container


class Stage:
    """One stage: a file system, and what its instructions have set."""

    def __init__(self, folder: Path, args: dict[str, str]) -> None:
        self.root, self.args = folder / "root", args
        self.env = {key: os.environ[key] for key in ("PATH", *_pip_variables())}
        self.workdir, self.about = "/", dict[str, str]()
        for name in ("upper", "work", "root"):
            (folder / name).mkdir(parents=True)
        options = f"lowerdir=/,upperdir={folder / 'upper'},workdir={folder / 'work'}"
        run(["mount", "-t", "overlay", "overlay", "-o", options, str(self.root)])
        run(["mount", "--rbind", "/dev", str(self.root / "dev")])
        run(["mount", "-t", "proc", "proc", str(self.root / "proc")])
        (self.root / "root").chmod(0o755)  # where this machine's Python may be

    def path(self, inside: str) -> Path:
        return self.root / os.path.join(self.workdir, inside).lstrip("/")

    def command(self, words: list[str], user: str = "0", **env: str) -> list[str]:
        """A command line that runs in this file system, without privileges for other users."""
        ids = (user.split(":") * 2)[:2]
        drop = ["setpriv", "--reuid", ids[0], "--regid", ids[1], "--clear-groups"]
        drop += ["--no-new-privs", "--bounding-set=-all"] if user != "0" else []
        variables = [f"{key}={value}" for key, value in {**self.env, **env}.items()]
        inner = ["env", "-i", *variables, *words]
        return ["chroot", str(self.root), *drop, *inner]

    def follow(self, name: str, text: str, context: Path, stages: dict[str, "Stage"]) -> None:
        """Carries out one instruction."""
        match name:
            case "ARG":
                key, _, default = text.partition("=")
                self.args.setdefault(key, default)
            case "ENV":
                for pair in shlex.split(text):
                    key, _, value = pair.partition("=")
                    self.env[key] = value.replace("$PATH", self.env["PATH"])
            case "WORKDIR":
                self.workdir = text
                self.path("").mkdir(parents=True, exist_ok=True)
            case "COPY":
                self._copy(text, context, stages)
            case "RUN":
                script = f"cd {self.workdir} && {text}"
                run(self.command(["sh", "-ec", script], **self.args))
            case _:
                self.about[name] = text

    def _copy(self, text: str, context: Path, stages: dict[str, "Stage"]) -> None:
        words = shlex.split(text)
        source = context
        if words[0].startswith("--from="):
            source = stages[words.pop(0).partition("=")[2]].root
        *names, target = words
        for name in names:
            found = glob.glob(str(source / name.lstrip("/")))
            assert found, f"COPY: no {name}"
            for each in found:
                goal = self.path(target)
                if target.endswith("/") or goal.is_dir():
                    goal = goal / Path(each).name
                goal.parent.mkdir(parents=True, exist_ok=True)
                run(["cp", "-a", each, str(goal)])


def _pip_variables() -> list[str]:
    return [key for key in os.environ if key.startswith("PIP_") or key == "SSL_CERT_FILE"]


def run(words: list[str]) -> None:
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{shlex.join(words)[-300:]}: {done.stdout[-1000:]}{done.stderr[-3000:]}")


def leave_network() -> None:
    """Into a network of its own, so that the container's ports are free."""
    if ctypes.CDLL(None, use_errno=True).unshare(0x40000000):  # CLONE_NEWNET
        raise OSError(ctypes.get_errno(), "unshare")
    with socket.socket() as one:
        up = struct.pack("16sh", b"lo", 1 | 64)  # IFF_UP, IFF_RUNNING
        fcntl.ioctl(one, 0x8914, up)  # SIOCSIFFLAGS


def try_image(stage: Stage, request: list[str]) -> dict[str, Any]:
    """Runs the container as its instructions say; what was seen."""
    run(["mount", "-t", "tmpfs", "-o", f"size={SHM}", "tmpfs", str(stage.root / "dev/shm")])
    run(["mount", "-t", "tmpfs", "tmpfs", str(stage.root / "tmp")])
    run(["mount", "-o", "remount,ro", str(stage.root)])
    user = stage.about["USER"]
    entry = json.loads(stage.about["ENTRYPOINT"]) + json.loads(stage.about["CMD"])
    health = json.loads(stage.about["HEALTHCHECK"].partition("CMD")[2])
    log = stage.root.parent / "log"
    server = subprocess.Popen(
        stage.command(entry, user), stdout=log.open("wb"), stderr=subprocess.STDOUT
    )
    found: dict[str, Any] = {"healthy": False}
    end = time.monotonic() + 100
    while time.monotonic() < end and server.poll() is None and not found["healthy"]:
        time.sleep(0.5)
        probe = subprocess.run(stage.command(health, user), capture_output=True)
        found["healthy"] = probe.returncode == 0
        found["probe"] = probe.stderr.decode()[-300:]
    answer = subprocess.run(stage.command(request, user), capture_output=True, text=True)
    found["answer"] = answer.stdout + answer.stderr
    ids = subprocess.run(stage.command(["id", "-u"], user), capture_output=True, text=True)
    found["user"] = ids.stdout.strip()
    touch = subprocess.run(stage.command(["touch", "/opt/cupola/x"], user), capture_output=True)
    found["read_only"] = touch.returncode != 0
    found["shm"] = sorted(path.name for path in (stage.root / "dev/shm").iterdir())
    server.send_signal(getattr(signal, stage.about["STOPSIGNAL"]))
    found["exit"] = server.wait(120)
    found["log"] = log.read_text()[-2000:]
    return found


def main() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text())
    stages: dict[str, Stage] = {}
    folder = Path(plan["folder"])
    run(["mount", "--make-rprivate", "/"])
    for number, steps in enumerate(plan["stages"]):
        name = steps[0][1].partition(" AS ")[2] or str(number)
        stages[name] = Stage(folder / str(number), dict(plan["args"]))
        for instruction, text in steps[1:]:
            stages[name].follow(instruction, text, Path(plan["context"]), stages)
    leave_network()
    print(json.dumps(try_image(stages[name], plan["request"])))
    shutil.rmtree(folder / "0" / "upper", ignore_errors=True)


if __name__ == "__main__":
    main()
