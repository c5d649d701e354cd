"""Starts the server: one process or a master with children, in front or as a daemon."""

import os
import sys
from pathlib import Path
from typing import Any

from cupola.serve.master.sockets import ENVIRONMENT
from cupola.serve.settings.file import load_settings
from cupola.serve.settings.settings import Settings


def start(file: Path | None, flags: dict[str, Any]) -> int:
    """Runs until told to stop; the exit code."""
    where = Path.cwd()

    def load() -> Settings:
        return load_settings(where / file if file else None, flags)

    settings = load()
    if not settings.master_process:
        from cupola.serve.master.single_process import run_single

        return run_single(load)
    from cupola.serve.master.master import Master

    if settings.daemon and ENVIRONMENT not in os.environ:
        daemonise()
    return Master(load).run()


def daemonise() -> None:
    """fork, setsid, umask 0, and nothing on stdin and stdout; stderr stays for the error log."""
    sys.stdout.flush()
    if os.fork():
        os._exit(0)
    os.setsid()
    os.umask(0)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
