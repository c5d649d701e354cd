"""The documents are true: their code runs, and they link to files and symbols that exist."""

import ast
import doctest
import os
import re
import runpy
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LINK = re.compile(r"\[(?P<text>[^\]]+)\]\((?P<target>[^)\s]+)\)")


EXERCISES = (
    "afno", "bloom", "deformable_detr", "detr", "detr3d", "nginx", "nn_module", "registry",
    "tensor_parallel", "train",
)  # fmt: skip


def links(document: Path) -> list[tuple[str, str]]:
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.S)
    return [(m["text"], m["target"]) for m in LINK.finditer(text)]


def symbols(path: Path) -> set[str]:
    """Names that a Python file defines: classes, functions, methods, assignments."""
    found = set()

    def walk(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                found.update({child.name, prefix + child.name})
                walk(child, f"{prefix}{child.name}.")
            elif isinstance(child, ast.Assign):
                found.update(t.id for t in child.targets if isinstance(t, ast.Name))
            elif isinstance(child, ast.AnnAssign) and isinstance(child.target, ast.Name):
                found.add(child.target.id)
            elif not isinstance(child, ast.expr):
                walk(child, prefix)

    walk(ast.parse(path.read_text(encoding="utf-8")), "")
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for text, target in links(document):
        if re.match(r"https?://|#|mailto:", target):
            continue
        path = (document.parent / target.split("#")[0]).resolve()
        assert path.exists(), f"[{text}]({target}) leads nowhere"
        if path.suffix == ".py" and re.fullmatch(r"`[\w.]+(\(\))?`", text):
            name = text.strip("`").removesuffix("()")
            if not name.endswith(".py"):
                assert name in symbols(path), f"{name} does not stand in {target}"


@pytest.mark.parametrize("tour", sorted(ROOT.glob("docs/tour/*.md")), ids=lambda p: p.name)
def test_every_tour_stands_in_english_and_chinese(tour: Path) -> None:
    stem = tour.name.removesuffix(".md").removesuffix(".zh-CN")
    assert (tour.parent / f"{stem}.md").exists()
    assert (tour.parent / f"{stem}.zh-CN.md").exists()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_code_in_a_document_is_that_of_the_source(document: Path) -> None:
    tour_code = runpy.run_path(str(ROOT / "scripts/tour_code.py"))
    text = document.read_text(encoding="utf-8")
    assert text.count("<!-- code:") == len(list(tour_code["BLOCK"].finditer(text)))
    assert text == tour_code["fill"](text), "run python scripts/tour_code.py"
    targets = {(document.parent / target.split("#")[0]).resolve() for _, target in links(document)}
    for match in tour_code["BLOCK"].finditer(text):
        assert 3 <= tour_code["excerpt"](match).code.count("\n") + 1 <= 22, match["symbol"]
        assert (ROOT / match["path"]).resolve() in targets, f"no link to {match['path']}"


def test_the_chinese_settings_are_generated() -> None:
    page = runpy.run_path(str(ROOT / "scripts/settings_zh.py"))["document"]()
    assert (ROOT / "docs/settings.zh-CN.md").read_text() == page, (
        "run python scripts/settings_zh.py"
    )


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/**/*.zh-CN.md")), ids=lambda p: p.name)
def test_chinese_and_english_pages_link_to_each_other(page: Path) -> None:
    english = page.with_name(page.name.replace(".zh-CN", ""))
    assert f"[English]({english.name})" in page.read_text()
    assert f"[中文]({page.name})" in english.read_text()


CHINESE = sorted([*ROOT.glob("*.zh-CN.md"), *ROOT.glob("docs/**/*.zh-CN.md")])


@pytest.mark.parametrize("document", CHINESE, ids=lambda p: str(p.relative_to(ROOT)))
def test_chinese_has_full_width_punctuation_and_one_term_each(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.S)
    text = re.sub(r"\]\([^)]*\)", "]", re.sub(r"`[^`]*`", "``", text))
    han = "[\u4e00-\u9fff]"
    assert not re.findall(rf"{han}[*`\]]*[,;:!?(].{{0,9}}|[,;:] ?{han}.{{0,9}}", text)
    assert not re.findall(r"骨干|主干(?!网络)|进程号", text)


def code_blocks(document: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", document.read_text(encoding="utf-8"), flags=re.S)


def exercises(tour: Path) -> list[str]:
    """The code of the answers to a tour's exercises."""
    text = tour.read_text(encoding="utf-8")
    return re.findall(r"</summary>\n\n```python\n(.*?)```", text, flags=re.S)


@pytest.mark.parametrize("name", EXERCISES)
def test_the_answers_of_a_tour_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tour = ROOT / f"docs/tour/{name}.md"
    code = exercises(tour)
    assert len(code) == 3
    assert exercises(ROOT / f"docs/tour/{name}.zh-CN.md") == code
    code = [block for block in code_blocks(tour) if block.startswith(">>> ")]
    monkeypatch.chdir(ROOT)
    if name == "nginx":  # it blocks the signals of its process
        command = [sys.executable, "-m", "doctest", "-o", "NORMALIZE_WHITESPACE", "/dev/stdin"]
        run = partial(subprocess.run, capture_output=True, text=True, timeout=60)
        done = run(command, input="\n".join(code), env={**os.environ, "PYTHONPATH": "src"})
        assert done.returncode == 0, done.stdout
        return
    parsed = doctest.DocTestParser().get_doctest("\n".join(code), {}, name, str(tour), 0)
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    runner.run(parsed, out=said.append)
    assert not runner.failures, "".join(said)


def test_the_readmes_show_the_same_code() -> None:
    both = [code_blocks(ROOT / name) for name in ("README.md", "README.zh-CN.md")]
    english, chinese = ([ast.dump(ast.parse(block)) for block in blocks] for blocks in both)
    assert english and english == chinese


@pytest.mark.parametrize("name", ["README.md", "docs/extending.md"])
def test_the_python_of_a_document_runs(name: str) -> None:
    blocks = code_blocks(ROOT / name)
    assert blocks
    source = "\n".join(blocks)
    done = subprocess.run(
        [sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_the_table_of_imports_is_the_tested_one() -> None:
    from test_architecture import MAY_IMPORT

    text = (ROOT / "docs/architecture.md").read_text()
    above: set[str] = set()
    for name, listed in re.findall(r"^\| `(\w+)` \|[^|]*\| ?([^|]*?) ?\|$", text, flags=re.M):
        said = {word for word in re.split(r", | and ", listed) if word}
        if listed.startswith("all packages above"):
            said = above - set(re.findall(r"\w+", listed.partition(" except ")[2])) - {"errors"}
        assert said == MAY_IMPORT[name] - {"", "errors"}, name
        above.add(name)
    assert above == set(MAY_IMPORT)


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_the_layout_lists_every_package(name: str) -> None:
    (layout,) = re.findall(r"```\nsrc/cupola/\n(.*?)```", (ROOT / name).read_text(), flags=re.S)
    packages = [path.parent.name for path in (ROOT / "src/cupola").glob("*/__init__.py")]
    assert sorted(re.findall(r"^  (\w+)/ ", layout, flags=re.M)) == sorted(packages)


@pytest.mark.parametrize("name", ["data-flow.svg", "processes.svg"])
def test_diagrams_are_up_to_date(name: str) -> None:
    diagrams = runpy.run_path(str(ROOT / "scripts/diagrams.py"))["DIAGRAMS"]
    assert (ROOT / "docs" / name).read_text() == diagrams[name](), "run python scripts/diagrams.py"


def test_drawings_are_up_to_date() -> None:
    drawings = runpy.run_path(str(ROOT / "scripts/drawings.py"))
    for name, draw in drawings["DRAWINGS"].items():
        drawn = (ROOT / "docs/tour" / name).read_text()
        assert drawn == draw(), f"{name}: run python scripts/drawings.py"
    for name, draw in drawings["COMPUTED"].items():  # the last digits depend on the processor
        drawn = (ROOT / "docs/tour" / name).read_text()
        assert drawn.count("<") == draw().count("<"), f"{name}: run python scripts/drawings.py"


@pytest.mark.parametrize("drawing", sorted(ROOT.glob("docs/tour/*.svg")), ids=lambda p: p.name)
def test_drawings_are_shown_in_both_languages(drawing: Path) -> None:
    pages = [
        path for path in ROOT.glob("docs/tour/*.md") if f"]({drawing.name})" in path.read_text()
    ]
    assert len(pages) == 2
    shown = [re.search(rf"!\[([^\]]+)\]\({drawing.name}\)", page.read_text()) for page in pages]
    assert all(match and len(match[1]) > 20 for match in shown)


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=280, env=environment
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "tour/registry.html").read_text()
    target = re.search(r'href="([^"#]+)#(__codelineno-0-\d+)"><code>Config.load<', page)
    assert target, "links to symbols lead to source lines"
    assert f'name="{target[2]}"' in (tmp_path / "tour" / target[1]).read_text()
    assert 'href="registry.zh-CN.html" hreflang="zh"' in page
    assert 'href="index.zh-CN.html" hreflang="zh"' in (tmp_path / "security.html").read_text()
