"""Binary upgrade: executes the command line again, beside this master, with its listeners."""

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from cupola.serve.ipc.channel import Channel
from cupola.serve.ipc.listeners import ENVIRONMENT, Listener, to_environment
from cupola.serve.master.children import Child, ChildKind, ChildTable


def start_binary(table: ChildTable, listeners: Sequence[Listener]) -> Child:
    """Forks and executes the command line that started this master; never signals the child.

    The child is not alive if it could not be started. An environment variable lists the listening
    descriptors, as in nginx.
    """
    variable, fds = to_environment(listeners)

    def execute(child: Child, channel: Channel) -> NoReturn:
        for fd in fds:
            os.set_inheritable(fd, True)
        environment = {**os.environ, ENVIRONMENT: variable, "CUPOLA_UPGRADE": "1"}
        os.execvpe(sys.orig_argv[0], sys.orig_argv, environment)

    return table.add("new binary", 0, 0, execute, ChildKind.DETACHED)
