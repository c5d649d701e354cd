"""Binary upgrade: starts argv[0] again with the listening sockets, beside this master."""

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from cupola.serve.ipc.channel import Channel
from cupola.serve.master.children import Child, Kind, Table
from cupola.serve.master.sockets import ENVIRONMENT, Listener, to_environment


def start_binary(table: Table, listeners: Sequence[Listener]) -> Child:
    """Forks and executes the command line that started us; the child is never signalled.

    The listening descriptors are named in an environment variable, in nginx's manner.
    """
    variable, fds = to_environment(listeners)

    def execute(child: Child, channel: Channel) -> NoReturn:
        for fd in fds:
            os.set_inheritable(fd, True)
        environment = {**os.environ, ENVIRONMENT: variable, "CUPOLA_UPGRADE": "1"}
        os.execvpe(sys.orig_argv[0], sys.orig_argv, environment)

    return table.add("new binary", 0, 0, execute, Kind.DETACHED)
