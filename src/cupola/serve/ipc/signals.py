"""The signals, in one table: signal, flag, command-line name, handler of the worker.

Signals are blocked before any import that may start a thread, so that no thread can receive one;
the master takes them one by one with sigtimedwait. A signal that arrives twice before it is taken
counts once, as in nginx.
"""

import signal
from dataclasses import dataclass
from enum import StrEnum


class Flag(StrEnum):
    """What a signal requests from the master. Names and order of processing are nginx's."""

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
class SignalEntry:
    """One row of the table. `command`: name in `cupola signal`; `worker`: the worker's method."""

    signal: signal.Signals
    flag: Flag
    command: str | None
    worker: str | None
    meaning: str


TABLE: tuple[SignalEntry, ...] = (
    SignalEntry(signal.SIGTERM, Flag.TERMINATE, "stop", "terminate", "stop at once"),
    SignalEntry(signal.SIGINT, Flag.TERMINATE, None, "terminate", "stop at once"),
    SignalEntry(signal.SIGQUIT, Flag.QUIT, "quit", "quit", "finish open requests, then stop"),
    SignalEntry(signal.SIGHUP, Flag.RECONFIGURE, "reload", None, "reload settings and models"),
    SignalEntry(signal.SIGUSR1, Flag.REOPEN, "reopen", "reopen", "reopen the log files"),
    SignalEntry(signal.SIGUSR2, Flag.CHANGE_BINARY, "upgrade", None, "start a new master"),
    SignalEntry(signal.SIGWINCH, Flag.NOACCEPT, "noaccept", "quit", "stop the workers (daemon)"),
    SignalEntry(signal.SIGTTIN, Flag.GROW, "grow", None, "start one more worker"),
    SignalEntry(signal.SIGTTOU, Flag.SHRINK, "shrink", None, "stop one worker"),
    SignalEntry(signal.SIGCHLD, Flag.REAP, None, None, "a child exited"),
    SignalEntry(signal.SIGALRM, Flag.SIGALRM, None, None, "a timer of the master"),
    SignalEntry(signal.SIGIO, Flag.CHANNEL, None, None, "a child wrote to its channel"),
)

FLAGS: dict[int, Flag] = {entry.signal: entry.flag for entry in TABLE}
COMMANDS = {entry.command: entry.signal for entry in TABLE if entry.command}
HANDLED = frozenset(FLAGS)


def block() -> None:
    """Blocks all handled signals in this thread and in the threads it starts."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)


def unblock() -> None:
    """Unblocks the handled signals; a child does this once its handlers are installed."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)


def wait(timeout: float | None) -> set[Flag]:
    """Sleeps until a handled signal or the timeout; returns the flags of all pending signals."""
    flags: set[Flag] = set()
    if timeout is None:
        flags.add(FLAGS[signal.sigwait(HANDLED)])
    pause = 0.0 if flags else max(0.0, timeout or 0.0)
    while info := signal.sigtimedwait(HANDLED, pause):
        flags.add(FLAGS[info.si_signo])
        pause = 0.0
    return flags


def restore_defaults() -> None:
    """Resets the handlers that a forked child inherited from its parent."""
    for number in HANDLED:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
