"""Errors the user can fix; each says what is wrong, where, and what to do."""

from collections.abc import Iterable
from difflib import get_close_matches

LONGEST_MESSAGE = 4000  # characters; a file may quote itself at any length


def printable(text: str) -> str:
    """The text with control characters and lone surrogates as escapes, safe on any terminal.

    What is longer than `LONGEST_MESSAGE` loses its middle.
    """
    if len(text) > LONGEST_MESSAGE:
        text = f"{text[: LONGEST_MESSAGE - 500]} [...] {text[-400:]}"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


class CupolaError(Exception):
    """Base of every error meant for the user; the command line prints it and exits with 2."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(printable(each) if isinstance(each, str) else each for each in args))


class ConfigError(CupolaError, ValueError):
    """A config file or value that cannot be used; the message names file, line and key."""


class BuildError(CupolaError, ValueError):
    """A config that is well-formed but does not build; the message names the path in it."""


class CheckpointError(CupolaError, ValueError):
    """A checkpoint that cannot be read safely or does not fit the model."""


class BundleError(CupolaError, ValueError):
    """A bundle folder that is incomplete or damaged."""


class DataError(CupolaError, ValueError):
    """A dataset that cannot be read or generated."""


class InputError(CupolaError, ValueError):
    """An input to a model (an image, a field, a prompt, a request) that cannot be used."""


class NotBridgedError(CupolaError, RuntimeError):
    """A tool that works on torch.nn.Modules got a cupola.nn.Module that is not bridged.

    No TypeError: around ``isinstance``, where it is raised, tools catch those.
    """


class EngineError(CupolaError, RuntimeError):
    """A process that every answer needs is gone: the model can answer nothing more."""


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """The up to three known names that look most like `name`, best first."""
    return get_close_matches(name, list(known), n=3, cutoff=0.6)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint such as ``; did you mean 'DETRHead'?``, or an empty string."""
    names = nearest(name, known)
    return f"; did you mean {' or '.join(repr(n) for n in names)}?" if names else ""
