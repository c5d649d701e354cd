"""A generation: one set of settings, listeners, logs and processes.

A new generation is built completely (settings, bundles, logs, sockets) before the old one is
touched; if any step fails, the old one keeps running with the same processes.
"""

import os
import shutil
import ssl
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from cupola.errors import ConfigError
from cupola.serve.ipc import paths
from cupola.serve.ipc.listeners import Listener, open_listeners
from cupola.serve.logs import STREAMS, Log, LogFile
from cupola.serve.process_setup import identity
from cupola.serve.settings.models import ModelPlan, plan_models
from cupola.serve.settings.settings import Settings
from cupola.serve.tls import make_contexts


@dataclass
class Generation:
    """One generation. `home` is the folder of its sockets; TTIN and TTOU change `workers`."""

    number: int
    settings: Settings
    plans: list[ModelPlan]
    listeners: list[Listener]
    log: Log
    access_log: LogFile | None
    home: Path
    workers: int
    accept_early: bool = False  # the first generation has no predecessor that could answer
    started: float = field(default=0.0)
    tls: dict[bool, ssl.SSLContext] = field(default_factory=dict)  # by whether for gRPC
    leaving: bool = False  # the server stops: not ready any more, although it still accepts

    @property
    def loading_priority(self) -> int:
        """Nice value while loading; the first generation has no traffic to protect."""
        return 0 if self.accept_early else self.settings.loading_priority

    @property
    def metrics(self) -> Path:
        """Folder of the workers' counters, shared by all generations of a master."""
        return self.home.parent / "metrics"

    @property
    def quarantine(self) -> Path:
        """Folder of the requests that crashed two runners."""
        return self.settings.quarantine or self.home.parent / "quarantine"

    @property
    def spool(self) -> Path:
        """Folder of the bodies that are too large for a socket."""
        return self.home / "spool"

    def sweep_spool(self, pid: int) -> None:
        """Removes the spooled bodies of a process that exited."""
        with suppress(OSError):
            for left in self.spool.glob(f"{pid}-*"):
                left.unlink(missing_ok=True)

    def reopen_logs(self) -> None:
        """Reopens the log files; one that cannot be opened keeps its old descriptor."""
        for target in (self.log.file, self.access_log):
            if target is not None:
                try:
                    target.reopen()
                except OSError as error:
                    self.log("error", f"reopen failed, keeping the old log file: {error}")

    def discard(self, in_use: Sequence[Listener]) -> None:
        """Closes the logs and the listeners not in `in_use`, and removes the folder."""
        kept = {id(one) for listener in in_use for one in listener.sockets}
        for listener in self.listeners:
            shared = any(other.address == listener.address for other in in_use)
            listener.sockets = [one for one in listener.sockets if id(one) not in kept]
            listener.close(unlink=not shared)
        self.log.file.close()
        if self.access_log:
            self.access_log.close()
        shutil.rmtree(self.home, ignore_errors=True)


def build_generation(
    number: int, settings: Settings, kept: Iterable[Listener], home: Path, workers: int
) -> Generation:
    """Builds a generation. On CupolaError or OSError, nothing is left open."""
    plans = plan_models(settings, offline=number > 1)  # a reload must not wait for a network
    tls = make_contexts(settings)
    kept, folder = list(kept), home / f"g{number}"
    paths.restore_home(home)
    with ExitStack() as undo:
        log = Log(settings.error_log, settings.log_level)
        undo.callback(log.file.close)
        access_log = None if settings.access_log == "off" else LogFile(settings.access_log)
        if access_log:
            undo.callback(access_log.close)
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
        quarantine = settings.quarantine or home / "quarantine"
        _make_folders(folder, quarantine, identity(settings))
        give_logs_to_workers(settings, log, access_log)
        listeners = open_listeners(
            _expand(_addresses(settings), kept),
            kept,
            per_worker=workers if settings.reuseport else 1,
            backlog=settings.backlog,
            private=[settings.admin, *settings.operations_listen],
        )
        undo.pop_all()
    _assign_roles(listeners, settings, kept)
    made = Generation(number, settings, plans, listeners, log, access_log, folder, workers)
    made.tls = tls
    return made


def _make_folders(folder: Path, quarantine: Path, owner: tuple[int, int] | None) -> None:
    """The folders that workers and runners write to, which are theirs alone."""
    if owner is not None:
        paths.admit_group(folder.parent, owner[1])
    if not quarantine.exists():
        quarantine.mkdir(mode=0o700, parents=True)
        if owner is not None:
            os.chown(quarantine, *owner)
    shared = (folder.parent / "metrics",)
    for path in (folder, folder / "spool", *shared):
        path.mkdir(mode=0o700, exist_ok=path in shared)
        path.chmod(0o700)
        if owner is not None:
            os.chown(path, *owner)


def give_logs_to_workers(settings: Settings, log: Log, access_log: LogFile | None) -> None:
    """As root with `user` set: gives that user the log files."""
    owner = identity(settings)
    if owner is None:
        return
    for target in (log.file, access_log):
        if target is not None and target.target not in STREAMS:
            target.give_to(*owner)


def _addresses(settings: Settings) -> list[str]:
    """The addresses to listen on, including an admin socket."""
    extra = [settings.admin] if settings.admin.startswith("unix:") else []
    return [*settings.listen, *settings.operations_listen, *settings.grpc_listen, *extra]


def _assign_roles(
    listeners: Sequence[Listener], settings: Settings, kept: Sequence[Listener]
) -> None:
    proxied = _expand(settings.proxy_protocol, kept)
    own = [*settings.operations_listen, settings.admin]
    for listener in listeners:
        listener.proxied = listener.address in proxied
        listener.grpc = listener.address in settings.grpc_listen
        listener.operations = not settings.operations_listen or listener.address in own


def _expand(addresses: Sequence[str], kept: Sequence[Listener]) -> list[str]:
    """Replaces `systemd` by the addresses of the sockets that systemd has passed; ConfigError."""
    passed = [listener.address for listener in kept if listener.passed]
    if "systemd" in addresses and not passed:
        raise ConfigError("listen: systemd has passed no sockets (LISTEN_FDS, LISTEN_PID)")
    return [one for text in addresses for one in (passed if text == "systemd" else [text])]
