"""Untrusted XML files -> a tree: no declarations of entities, no other files."""

from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from cupola.errors import CupolaError, DataError
from cupola.files.opening import read_bytes

LARGEST = 16 * 2**20  # bytes
DEEPEST = 100  # elements inside each other


class _RefusedError(Exception):
    pass


def read_xml(path: Path, error: type[CupolaError] = DataError) -> Element:
    """The root element. Raises `error` for what is no XML, too large, or declares a document type.

    A document type can declare entities that expand to gigabytes or name other files.
    """
    content = read_bytes(path, LARGEST, error)
    builder, depth = TreeBuilder(), 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > DEEPEST:
            raise _RefusedError(f"has more than {DEEPEST} elements inside each other")
        builder.start(name, attributes)

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(name)

    def refuse(*_: object) -> None:
        raise _RefusedError("has a document type declaration (DOCTYPE), which is not read")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(content, True)
        return builder.close()
    except _RefusedError as problem:
        raise error(f"{path}: {problem}") from None
    except (expat.ExpatError, LookupError, ValueError) as problem:
        raise error(f"{path}: not XML ({problem})") from None
