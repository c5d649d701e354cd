"""Starts the server: one process or a master with children, in the foreground or as a daemon."""

import os
import sys
from pathlib import Path
from typing import Any

from cupola.serve.ipc.listeners import ENVIRONMENT
from cupola.serve.settings.file import load_settings
from cupola.serve.settings.settings import Settings


def start(file: Path | None, flags: dict[str, Any]) -> int:
    """Runs the server until it is stopped; returns the exit code."""
    where = Path.cwd()

    def load() -> Settings:
        return load_settings(where / file if file else None, flags)

    settings = load()
    if not settings.master_process:
        from cupola.serve.master.single_process import run_single_process

        return run_single_process(load)
    from cupola.serve.master.master import Master

    if settings.daemon and ENVIRONMENT not in os.environ:
        daemonize()
    return Master(load).run()


def daemonize() -> None:
    """Forks, calls setsid, sets umask 0 and closes stdin and stdout; stderr stays open.

    The master gives every file its mode explicitly, and its children set a umask of their own.
    """
    sys.stdout.flush()
    if os.fork():
        os._exit(0)
    os.setsid()
    os.umask(0)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
