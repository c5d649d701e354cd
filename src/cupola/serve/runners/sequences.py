"""The states of the sequences that a runner serves: bounded, and freed when they are idle."""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from cupola.errors import InputError
from cupola.serve.ipc.sequence import SequenceStep


class TooManySequencesError(InputError):
    """A sequence cannot start because all places for states are taken; HTTP 429."""


class Sequences:
    """States by id, the one that is idle longest first. `timeout` in seconds."""

    def __init__(
        self, limit: int, timeout: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limit, self.timeout, self._clock = limit, timeout, clock
        self._states: OrderedDict[str, tuple[float, Any]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._states)

    def find(self, step: SequenceStep) -> Any:
        """The state before a step, None at a start. InputError if there is none."""
        self.expire()
        if step.start:
            if step.id not in self._states and len(self) >= self.limit:
                raise TooManySequencesError(
                    f"sequence {step.id}: {len(self)} sequences are active in this runner "
                    "(max_sequences); end one with sequence_end, or try again later"
                )
            return None
        if step.id not in self._states:
            raise InputError(
                f"sequence {step.id} has no state: it was not started, has ended, was idle for "
                f"more than {self.timeout:g} s, or its runner has exited; send sequence_start to "
                "begin again"
            )
        return self._states[step.id][1]

    def keep(self, step: SequenceStep, state: Any) -> None:
        """Stores the state after a step, or frees it after the last one."""
        self._states.pop(step.id, None)
        if not step.end:
            self._states[step.id] = (self._clock(), state)

    def drop(self, step: SequenceStep) -> None:
        """Frees the state of a sequence whose step failed, if it was to start or to end it."""
        if step.start or step.end:
            self._states.pop(step.id, None)

    def expire(self) -> None:
        """Frees the states that have been idle for too long."""
        now = self._clock()
        while self._states:
            used, _ = next(iter(self._states.values()))
            if now - used <= self.timeout:
                return
            self._states.popitem(last=False)
