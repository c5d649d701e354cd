"""docs/ecosystem.md, which scripts/ecosystem.py writes, and some of its rows run again."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from ecosystem_probes.common import Tool, outcome, raised_in  # noqa: E402
from ecosystem_probes.page import CURE, WORDS, cell  # noqa: E402
from ecosystem_probes.tools import TOOLS  # noqa: E402

PAGES = {"en": ROOT / "docs/ecosystem.md", "zh": ROOT / "docs/ecosystem.zh-CN.md"}
# Rows that need no package beyond those of the tests, and little time.
RUN = (
    "fx", "fx_fuse", "jit_trace", "data_parallel", "amp", "functional", "prune", "parametrize",
    "quantize_dynamic", "averaged_model", "batch_norms", "flop_counter", "global_hooks",
    "save_module", "empty_weights", "peft", "safetensors",
)  # fmt: skip


def rows(language: str) -> dict[str, list[str]]:
    """The cells behind each title: version, bare, bridged, what to do."""
    lines = PAGES[language].read_text(encoding="utf-8").splitlines()
    cells = [re.split(r" ?(?<!\\)\| ?", line)[1:-1] for line in lines if line.startswith("| ")]
    return {row[0]: row[1:] for row in cells[1:]}


@pytest.mark.parametrize("language", PAGES)
def test_every_tool_has_a_row(language: str) -> None:
    found = rows(language)
    assert list(found) == [tool.title for tool in TOOLS.values()]
    assert len(found) >= 40
    words = WORDS[language]
    for title, (version, bare, bridged, todo) in found.items():
        assert re.match(r"\d", version), title
        works = bare in (words["works"], words["bridges"])
        assert bool(todo) != works, f"{title}: a cure for what does not work, and only for that"
        assert todo != CURE or bridged == words["works"], title


def test_both_pages_are_of_one_run() -> None:
    english, chinese = rows("en"), rows("zh")
    for title, (version, *cells, todo) in english.items():
        translated = [cell.replace(WORDS["en"]["silent"], WORDS["zh"]["silent"]) for cell in cells]
        names = {WORDS["en"][kind]: WORDS["zh"][kind] for kind in ("works", "bridges")}
        expected = [version, *(names.get(cell, cell) for cell in translated), todo]
        assert chinese[title] == expected


@pytest.mark.parametrize("name", RUN)
@pytest.mark.filterwarnings("ignore")  # what the tools warn of is theirs
def test_a_tool_does_what_its_row_says(name: str) -> None:
    _, bare, bridged, _ = rows("en")[TOOLS[name].title]
    for form, said in (("bare", bare), ("bridged", bridged)):
        kind, text = outcome(TOOLS[name], form)
        assert cell((kind, text), WORDS["en"]) == said, form
    assert outcome(TOOLS[name], "torch") == ("works", "")


def test_an_outcome_tells_errors_of_a_tool_from_no_effect() -> None:
    def fails(form: object) -> None:
        assert not form, "nothing happened"

    def raises(form: object) -> None:
        re.compile("(")

    assert outcome(Tool("", "torch", raises, ""), "bare")[0] == "error"
    kind, text = outcome(Tool("", "torch", fails, ""), "bare")
    assert (kind, text.split(":")[0]) == ("error", "AssertionError")  # not of a probe's file
    with pytest.raises(AssertionError) as caught:
        fails(1)
    assert raised_in(caught.value) == Path(__file__)
