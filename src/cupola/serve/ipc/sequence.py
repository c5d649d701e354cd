"""What a request says of its sequence: the parameters of Triton's sequence batcher.

Requests with the same `sequence_id` are the frames of one stream. `sequence_start` begins it and
`sequence_end` frees its state after the answer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cupola.errors import InputError

ID, START, END = "sequence_id", "sequence_start", "sequence_end"
NAMES = (ID, START, END)
MAX_ID = 256  # characters
FLAGS = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True, slots=True)
class SequenceStep:
    """One request of a sequence."""

    id: str
    start: bool
    end: bool

    @property
    def entries(self) -> dict[str, Any]:
        """What a frame says of it: where it is sent, and whether its failure frees the state."""
        return {"sequence": self.id, **({"frees": True} if self.start or self.end else {})}


def read_sequence(parameters: Mapping[str, Any]) -> SequenceStep | None:
    """The step that a request's parameters name; None without one. InputError if they are bad.

    As for Triton, the ids 0 and "" mean that the request belongs to no sequence.
    """
    if not parameters:
        return None
    name = sequence_id(parameters)
    flags = {key: _flag(key, parameters[key]) for key in (START, END) if key in parameters}
    if name is None:
        if any(flags.values()):
            raise InputError(f"{' and '.join(flags)} without a {ID}; send the id of the sequence")
        return None
    return SequenceStep(name, flags.get(START, False), flags.get(END, False))


def sequence_id(parameters: Mapping[str, Any]) -> str | None:
    """The id as text; None for a request without one. InputError for anything else."""
    value = parameters.get(ID)
    if value is None or (value in (0, "", "0") and value is not False):
        return None
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise InputError(f"{ID}: expected a text or an integer, got {type(value).__name__}")
    if isinstance(value, int) and value < 0:
        raise InputError(f"{ID}: expected a text or a positive integer, got {value}")
    text = str(value)
    if len(text) > MAX_ID:
        raise InputError(f"{ID}: expected at most {MAX_ID} characters, got {len(text)}")
    return text


def _flag(name: str, value: Any) -> bool:
    """JSON's true and false; text from a query or a form."""
    if isinstance(value, bool):
        return value
    if str(value).lower() not in FLAGS:
        raise InputError(f"{name}: expected true or false, got {value!r:.40}")
    return FLAGS[str(value).lower()]
