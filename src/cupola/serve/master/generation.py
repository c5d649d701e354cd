"""A cycle: one generation of settings, listeners, logs and processes.

The new cycle is built whole (settings, bundles, logs, sockets) before the old one is touched; if
any of it fails, the old one goes on with the very same processes.
"""

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cupola.serve.logs import Log, LogFile
from cupola.serve.master.sockets import Listener, open_listeners
from cupola.serve.settings.models import ModelPlan, plan_models
from cupola.serve.settings.settings import Settings


@dataclass
class Cycle:
    """One generation. `home` holds its sockets; `workers` may differ from the settings by TTIN."""

    generation: int
    settings: Settings
    plans: list[ModelPlan]
    listeners: list[Listener]
    log: Log
    access_log: LogFile | None
    home: Path
    workers: int
    accept_early: bool = False  # the first cycle has no predecessor that could answer
    started: float = field(default=0.0)

    @property
    def loading_priority(self) -> int:
        """Nice value while loading: there is nobody to disturb before the first generation."""
        return 0 if self.accept_early else self.settings.loading_priority

    @property
    def metrics(self) -> Path:
        """Counters of all workers, of every generation of this master."""
        return self.home.parent / "metrics"

    @property
    def spool(self) -> Path:
        """Where bodies lie that are too large for a socket."""
        return self.home / "spool"

    def sweep_spool(self, pid: int) -> None:
        """Removes what a process that died left in the spool."""
        for left in self.spool.glob(f"{pid}-*"):
            left.unlink(missing_ok=True)

    def discard(self, in_use: Sequence[Listener]) -> None:
        """Closes logs, and listeners that no cycle in `in_use` shares; removes the folder."""
        kept = {id(one) for listener in in_use for one in listener.sockets}
        for listener in self.listeners:
            shared = any(other.address == listener.address for other in in_use)
            listener.sockets = [one for one in listener.sockets if id(one) not in kept]
            listener.close(unlink=not shared)
        self.log.file.close()
        if self.access_log:
            self.access_log.close()
        shutil.rmtree(self.home, ignore_errors=True)


def build_cycle(
    generation: int, settings: Settings, kept: Iterable[Listener], home: Path, workers: int
) -> Cycle:
    """A new cycle; CupolaError or OSError says what is wrong, and nothing is left open."""
    plans = plan_models(settings)
    _check_files(settings)
    log = Log(settings.error_log, settings.log_level)
    access_log = None if settings.access_log == "off" else LogFile(settings.access_log)
    kept = list(kept)
    try:
        listeners = open_listeners(
            _expand(_addresses(settings), kept),
            kept,
            per_worker=workers if settings.reuseport else 1,
            backlog=settings.backlog,
        )
    except OSError:
        log.file.close()
        if access_log:
            access_log.close()
        raise
    folder = home / f"g{generation}"
    (folder / "spool").mkdir(parents=True, exist_ok=True)
    (home / "metrics").mkdir(exist_ok=True)
    cycle = Cycle(generation, settings, plans, listeners, log, access_log, folder, workers)
    give_to_workers(cycle)
    return cycle


def give_to_workers(cycle: Cycle) -> None:
    """Under root with `user` set: what workers must write belongs to them."""
    from cupola.serve.privileges import identity

    who = identity(cycle.settings)
    if who is None:
        return
    for path in (cycle.home, cycle.spool, cycle.metrics):
        os.chown(path, *who)
    for target in (cycle.log.file, cycle.access_log):
        if target is not None and target.target not in ("stderr", "stdout"):
            os.chown(target.target, *who)


def _addresses(settings: Settings) -> list[str]:
    """Where to listen; an admin socket is one more address."""
    extra = [settings.admin] if settings.admin.startswith("unix:") else []
    return [*settings.listen, *extra]


def _expand(addresses: Sequence[str], kept: Sequence[Listener]) -> list[str]:
    """`systemd` stands for every socket that was handed to us."""
    found: list[str] = []
    for address in addresses:
        found += [listener.address for listener in kept] if address == "systemd" else [address]
    return found


def _check_files(settings: Settings) -> None:
    for path in (settings.tls_certificate, settings.tls_key):
        if path is not None:
            path.open("rb").close()
