"""Fills the code blocks of the documentation from the source: `python scripts/tour_code.py`.

A marker names what the block after it shows: a file, a symbol in it, and optionally the beginnings
of the first and the last line. Without them it is the whole symbol, without its docstring.

    <!-- code: src/cupola/models/detr/head.py DETRHead.forward -->
    <!-- code: src/cupola/models/detr/detr.py DETR.encode | cells = | return -->

tests/test_docs.py fails if a block differs from the source.
"""

import ast
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(
    r"<!-- code: (?P<path>\S+) (?P<symbol>[\w.]+)(?P<range>(?: \| .+?)*) -->\n"
    r"(?:```python\n.*?\n```\n)?",
    flags=re.S,
)


@dataclass(frozen=True)
class Excerpt:
    """Lines `first` to `last` of the file `path`, counted from 1; `code` is their text."""

    path: str
    symbol: str
    first: int
    last: int
    code: str


def excerpt(match: re.Match[str], root: Path = ROOT) -> Excerpt:
    """What a marker names; ValueError if the file has no such symbol or line."""
    path, symbol = match["path"], match["symbol"]
    text = (root / path).read_text(encoding="utf-8")
    lines = text.splitlines()
    node = find(ast.parse(text), symbol)
    if node is None or node.end_lineno is None:
        raise ValueError(f"{path} does not define {symbol}")
    numbers = list(range(first_line(node), node.end_lineno + 1))
    for line in docstring_lines(node):
        numbers.remove(line)
    bounds = [part.strip() for part in match["range"].split(" | ")[1:]]
    if bounds:
        start = next((n for n in numbers if lines[n - 1].strip().startswith(bounds[0])), None)
        if start is None:
            raise ValueError(f"no line of {symbol} in {path} begins with {bounds[0]!r}")
        numbers = [n for n in numbers if n >= start]
    if len(bounds) > 1:
        stop = next((n for n in numbers if lines[n - 1].strip().startswith(bounds[1])), None)
        if stop is None:
            raise ValueError(f"no line of {symbol} in {path} begins with {bounds[1]!r}")
        numbers = [n for n in numbers if n <= stop]
    code = textwrap.dedent("\n".join(lines[n - 1] for n in numbers)).strip("\n")
    return Excerpt(path, symbol, numbers[0], numbers[-1], code)


def fill(markdown: str, root: Path = ROOT) -> str:
    """The page with every marked block as in the source."""

    def replace(match: re.Match[str]) -> str:
        marker = match[0].partition("\n")[0]
        return f"{marker}\n```python\n{excerpt(match, root).code}\n```\n"

    return BLOCK.sub(replace, markdown)


def find(tree: ast.Module, symbol: str) -> ast.stmt | None:
    """The last statement that defines a class, function, method or variable."""
    body, found = tree.body, None
    for name in symbol.split("."):
        found = next((node for node in reversed(body) if name in names(node)), None)
        if found is None:
            return None
        body = getattr(found, "body", [])
    return found


def names(node: ast.stmt) -> set[str]:
    """What a statement defines."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def first_line(node: ast.stmt) -> int:
    """The line of a definition, or of its first decorator."""
    decorators = getattr(node, "decorator_list", [])
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


def docstring_lines(node: ast.stmt) -> range:
    """The lines of a definition's docstring."""
    body = getattr(node, "body", [])
    is_docstring = (
        body
        and isinstance(body[0], ast.Expr)
        and isinstance(body[0].value, ast.Constant)
        and isinstance(body[0].value.value, str)
    )
    return range(body[0].lineno, body[0].end_lineno + 1) if is_docstring else range(0)


def main() -> None:
    for page in sorted((ROOT / "docs").glob("**/*.md")):
        text = page.read_text(encoding="utf-8")
        filled = fill(text)
        if filled != text:
            page.write_text(filled, encoding="utf-8")
            print(page.relative_to(ROOT))


if __name__ == "__main__":
    main()
