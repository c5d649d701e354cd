"""The pages' texts: each has a Chinese translation, and none is translated that is not there."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cupola.serve import pages
from cupola.serve.ipc.signals import TABLE

FOLDER = Path(pages.__file__).parent
ATTRIBUTES = ("aria-label", "placeholder", "title")
UNTRANSLATED = {"Cupola", "0.50", "0.30"}  # names and numbers


class Texts(HTMLParser):
    """The texts that a page's HTML shows."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = tag
        self.found |= {value for name, value in attrs if name in ATTRIBUTES and value}

    def handle_data(self, data: str) -> None:
        if data.strip() and self.inside not in ("title", "script"):
            self.found.add(data.strip())


def translations() -> dict[str, str]:
    text = (FOLDER / "zh.js").read_text(encoding="utf-8")
    return dict(re.findall(r'^  "([^"]+)":\s+"([^"]+)",$', text, flags=re.M))


def shown() -> set[str]:
    """The texts of the HTML, and those that scripts pass to t()."""
    found: set[str] = set()
    for file in FOLDER.rglob("*.html"):
        parser = Texts()
        parser.feed(re.sub(r"\{\{\w+\}\}", "", file.read_text(encoding="utf-8")))
        found |= parser.found
    for file in FOLDER.rglob("*.js"):
        for call in re.findall(r"\bt\(([^()]*(?:\([^()]*\)[^()]*)*)\)", file.read_text("utf-8")):
            found |= set(re.findall(r'"([^"]+)"', call.split(", {")[0])) - {"models"}
    return (found | {entry.meaning for entry in TABLE}) - UNTRANSLATED


def test_every_text_is_translated() -> None:
    assert shown() - set(translations()) == set()


def test_translations_keep_the_values() -> None:
    for text, chinese in translations().items():
        assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", chinese)), text


def test_tables_of_the_status_page_are_translated() -> None:
    script = (FOLDER / "status" / "page.js").read_text(encoding="utf-8")
    tables = re.findall(r"^const (?:ROLES|EVENTS) = \{(.*?)^\};", script, flags=re.M | re.S)
    texts = {text for table in tables for text in re.findall(r': "([^"]+)"', table)}
    heads = {
        text
        for row in re.findall(r"\), \[(\"[^\]]+)\]", script)
        for text in re.findall(r'"([^"]+)"', row)
    }
    assert len(texts) == 10 and len(heads) == 13
    assert texts | heads <= set(translations())


@pytest.mark.parametrize("file", sorted(FOLDER.rglob("*.js")), ids=lambda f: f.parent.name + f.name)
def test_scripts_import_what_they_translate_with(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    if re.search(r"[^\w.]t\(", text) and file.name not in ("text.js", "zh.js"):
        assert re.search(r"import \{[^}]*\bt\b[^}]*\} from", text)
