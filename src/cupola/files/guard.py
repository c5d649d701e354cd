"""Trying to read an untrusted file in a child process first, where a crash does no harm.

Some inputs cannot be checked by looking at them: a pickle of nested tuples overflows C's stack when
it is hashed, nine bytes can make an unpickler allocate gigabytes. Reading is deterministic, so what
a forked child survives under a limit of memory and time is safe to repeat in this process.
"""

import gc
import os
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

if sys.platform == "linux":
    import resource

CRASHED, REFUSED, TOO_LARGE = "it crashes the reader", "it is damaged", "it needs too much memory"
TOO_SLOW = "it takes too long to read"
PATIENCE = 20  # seconds to wait for each second of processor time: the machine may be busy
_MESSAGE_SIZE = 4096  # bytes; one write of that size to a pipe is atomic


def guarded(action: Callable[[], object], *, memory: int, seconds: float) -> str | None:
    """Run `action` in a forked child and return why it failed, or None if it succeeded.

    memory: bytes that the child may allocate beyond what this process has mapped.
    seconds: processor time of the child. One that waits for ever, for a lock or for threads that
    the fork did not copy, is ended as well; `action` must not run torch's parallel operations.
    Elsewhere than on Linux nothing is tried: the fork of a process with threads is not safe there.
    """
    if sys.platform != "linux":
        return None
    receive, send = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the child of a threaded process runs only `action`
        pid = os.fork()
    if pid == 0:
        os.close(receive)
        _run_in_child(action, send, memory, seconds)
    os.close(send)
    try:
        return _outcome(pid, receive)
    finally:
        os.close(receive)


def _run_in_child(action: Callable[[], object], send: int, memory: int, seconds: float) -> None:
    code = 1
    gc.disable()  # it would visit, and so copy, everything that this process shares with its parent
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGSEGV):
            signal.signal(number, signal.SIG_DFL)
        _limit(resource.RLIMIT_CORE, 0)
        _limit(resource.RLIMIT_AS, _mapped_bytes() + memory)
        for number in (signal.SIGPROF, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)  # either one ends the child
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.setitimer(signal.ITIMER_REAL, seconds * PATIENCE)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libraries report panics there
        action()
        code = 0
    except MemoryError:
        os.write(send, TOO_LARGE.encode())
    except RecursionError:
        os.write(send, CRASHED.encode())
    except BaseException as error:
        text = str(error) or type(error).__name__
        os.write(send, (text.splitlines() or [""])[0].encode(errors="replace")[:_MESSAGE_SIZE])
    finally:
        os._exit(code)


def _limit(kind: int, value: int) -> None:
    with suppress(ValueError, OSError):
        hard = resource.getrlimit(kind)[1]
        if hard != resource.RLIM_INFINITY:
            value = min(value, hard)
        resource.setrlimit(kind, (value, hard))


def _mapped_bytes() -> int:
    """The size of this process's address space."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _outcome(pid: int, receive: int) -> str | None:
    message = b""
    while part := os.read(receive, _MESSAGE_SIZE):
        message += part
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status == 0:
        return None
    if status in (-signal.SIGPROF, -signal.SIGALRM):
        return TOO_SLOW
    if status < 0:
        return CRASHED
    return message.decode(errors="replace") or REFUSED
