"""The project's texts use the field's terms, not coined ones."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
COINED = re.compile(r"mould|nest\b|hatch|\bbury|birth|\bdesk\b|stranger|\broom", re.IGNORECASE)
STANDARD = re.compile(
    r"\b(no|enough|more) room\b|\broom (for|in|to|left)\b|hatchling|tool\.hatch|honest|finest|"
    r"resnest",
    re.IGNORECASE,
)
SUFFIXES = {".py", ".md", ".js", ".html", ".css", ".toml", ".service", ".socket"}


def texts() -> list[Path]:
    folders = [path for name in ("src", "docs", "tests", "bench", "examples", "scripts", "deploy")
               for path in (ROOT / name).rglob("*")]  # fmt: skip
    files = [path for path in [*folders, *ROOT.glob("*.md")] if path.suffix in SUFFIXES]
    return sorted(path for path in files if path != Path(__file__))


def coined(text: str) -> list[str]:
    """The lines with a coined word, `LINE: text`."""
    return [
        f"{number}: {line.strip()}"
        for number, line in enumerate(text.splitlines(), 1)
        if COINED.search(STANDARD.sub("", line))
    ]


def test_coined_words_are_found() -> None:
    assert coined("no room for it\nthe rooms of a Nest\nnested\n") == ["2: the rooms of a Nest"]


def test_no_coined_word() -> None:
    found = {
        str(path.relative_to(ROOT)): lines
        for path in texts()
        if (lines := coined(path.read_text(encoding="utf-8")))
    }
    assert found == {}


def test_no_mark_of_a_conflict() -> None:
    mark = re.compile(r"^(<{7}|>{7}) ", re.MULTILINE)
    assert [path.name for path in texts() if mark.search(path.read_text(encoding="utf-8"))] == []
