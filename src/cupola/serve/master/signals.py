"""The signals, in one table: signal, flag, command-line verb, handler.

A process blocks its signals before anything that starts a thread is imported, so that no thread
can receive one; the master then takes them one by one with sigtimedwait. A signal that arrives
twice before it is taken counts once, as nginx's do.
"""

import signal
from dataclasses import dataclass
from enum import StrEnum


class Flag(StrEnum):
    """What a signal asks of the master. The names and the order of service are nginx's."""

    REAP = "reap"
    TERMINATE = "terminate"
    QUIT = "quit"
    RECONFIGURE = "reconfigure"
    RESTART = "restart"
    REOPEN = "reopen"
    CHANGE_BINARY = "change_binary"
    NOACCEPT = "noaccept"
    SIGALRM = "sigalrm"
    CHANNEL = "channel"
    GROW = "grow"
    SHRINK = "shrink"


@dataclass(frozen=True)
class Entry:
    """One row: which flag the signal sets in the master, and which act of the worker it is."""

    signal: signal.Signals
    flag: Flag
    verb: str | None
    worker: str | None
    meaning: str


TABLE: tuple[Entry, ...] = (
    Entry(signal.SIGTERM, Flag.TERMINATE, "stop", "terminate", "stop at once"),
    Entry(signal.SIGINT, Flag.TERMINATE, None, "terminate", "stop at once"),
    Entry(signal.SIGQUIT, Flag.QUIT, "quit", "quit", "answer what is in flight, then stop"),
    Entry(signal.SIGHUP, Flag.RECONFIGURE, "reload", None, "read the settings and models again"),
    Entry(signal.SIGUSR1, Flag.REOPEN, "reopen", "reopen", "open the log files again"),
    Entry(signal.SIGUSR2, Flag.CHANGE_BINARY, "upgrade", None, "start a new master beside us"),
    Entry(signal.SIGWINCH, Flag.NOACCEPT, "noaccept", "quit", "let the workers go (daemon)"),
    Entry(signal.SIGTTIN, Flag.GROW, "grow", None, "one worker more"),
    Entry(signal.SIGTTOU, Flag.SHRINK, "shrink", None, "one worker fewer"),
    Entry(signal.SIGCHLD, Flag.REAP, None, None, "a child ended"),
    Entry(signal.SIGALRM, Flag.SIGALRM, None, None, "a timer of the master"),
    Entry(signal.SIGIO, Flag.CHANNEL, None, None, "a child wrote to its channel"),
)

FLAGS: dict[int, Flag] = {entry.signal: entry.flag for entry in TABLE}
VERBS = {entry.verb: entry.signal for entry in TABLE if entry.verb}
HANDLED = frozenset(FLAGS)


def block() -> None:
    """Blocks every handled signal in this thread and those it starts."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)


def unblock() -> None:
    """Lets the handled signals through again; children do so once their handlers stand."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)


def wait(timeout: float | None) -> set[Flag]:
    """Sleeps until a handled signal or the timeout; returns the flags of all that are pending."""
    flags: set[Flag] = set()
    if timeout is None:
        flags.add(FLAGS[signal.sigwait(HANDLED)])
    pause = 0.0 if flags else max(0.0, timeout or 0.0)
    while info := signal.sigtimedwait(HANDLED, pause):
        flags.add(FLAGS[info.si_signo])
        pause = 0.0
    return flags


def restore_defaults() -> None:
    """What a forked child needs first: no handler of its parent's."""
    for number in HANDLED:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
