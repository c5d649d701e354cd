"""`cupola check`: every step of a start before the first process is started."""

import errno
from pathlib import Path
from typing import Any

from cupola.errors import ConfigError
from cupola.serve.ipc import paths
from cupola.serve.ipc.listeners import open_listeners
from cupola.serve.logs import STREAMS
from cupola.serve.master.pid_file import PidFile
from cupola.serve.process_setup import identity
from cupola.serve.settings.file import load_settings
from cupola.serve.settings.models import plan_models
from cupola.serve.settings.settings import Settings
from cupola.serve.tls import make_contexts


def check_settings(file: Path | None, flags: dict[str, Any]) -> Settings:
    """The settings, if a server could start with them; ConfigError, BundleError or OSError."""
    settings = load_settings(file, flags)
    plan_models(settings)
    identity(settings)
    for address in (*settings.listen, *settings.operations_listen, *settings.grpc_listen):
        if address != "systemd":
            _try_address(address)
    make_contexts(settings)
    PidFile(settings.pid_file).check()
    root = paths.runtime_root(settings.runtime_dir)
    if root.exists():
        paths.check_root(root)
    for name in ("error_log", "access_log"):
        target = getattr(settings, name)
        if target not in ("off", *STREAMS) and not Path(target).parent.is_dir():
            raise ConfigError(f"{name}: folder {Path(target).parent} does not exist")
    return settings


def _try_address(address: str) -> None:
    if address.startswith("unix:"):
        if not Path(address[5:]).parent.is_dir():
            raise ConfigError(f"listen: folder {Path(address[5:]).parent} does not exist")
        return
    try:
        for listener in open_listeners([address], [], tries=1):
            listener.close()
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
