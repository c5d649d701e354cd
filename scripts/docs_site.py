"""Pages that mkdocs builds from outside docs/: README, the API reference, linked source files.

The Markdown files are written for reading in the repository, so they link to source files with
relative paths. Here each linked file becomes a page of the site, and a link to a symbol leads to
the line that defines it.
"""

import ast
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from tour_code import BLOCK, excerpt, find

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"(?P<text>\[[^\]]*\])\((?P<target>[^)\s]+)\)")
# Markdown files outside docs/ that are pages of the site.
PAGES = {
    "README.md": "index.md",
    "README.zh-CN.md": "index.zh-CN.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "tests/goldens/README.md": "goldens.md",
}
CHINESE = ".zh-CN.md"
LANGUAGES = {".py": "python", ".json": "json", ".sh": "bash", ".toml": "toml"}

home: dict[str, str] = {}  # page -> its path in the repository


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are not files in docs/, and the API reference to the navigation."""
    for path, page in PAGES.items():
        _add(files, config, page, path, (ROOT / path).read_text(encoding="utf-8"))
    config.nav[-1] = {"API reference": _add_reference(files, config)}
    for file in [*files.documentation_pages()]:
        if not file.src_uri.startswith("reference/"):
            home.setdefault(file.src_uri, f"docs/{file.src_uri}")
            _add_linked_files(files, config, file.content_string, home[file.src_uri])
    return files


def on_page_markdown(markdown: str, page: Page, files: Files, **_: Any) -> str | None:
    """Replaces links that leave docs/ by links to the pages made from those files."""
    here = page.file.src_uri
    if here not in home or here.startswith("source/"):
        return None

    def replace(match: re.Match[str]) -> str:
        path = _repository_path(match["target"], home[here])
        if path is None:
            return match[0]
        symbol = match["text"].strip("[`]")
        target = posixpath.relpath(_page_of(path), posixpath.dirname(here) or ".")
        line = _line_of(path, symbol.removesuffix("()"))
        if line:  # HTML, because mkdocs does not know the anchors of code lines
            url = f"{target.removesuffix('.md')}.html#__codelineno-0-{line}"
            return f'<a href="{url}"><code>{symbol}</code></a>'
        return f"{match['text']}({target})"

    def name_source(match: re.Match[str]) -> str:
        shown = excerpt(match)
        page_of = posixpath.relpath(_page_of(shown.path), posixpath.dirname(here) or ".")
        url = f"{page_of.removesuffix('.md')}.html#__codelineno-0-{shown.first}"
        where = f"{shown.path}, {shown.first}-{shown.last}"
        block = match[0].partition("\n")[2]  # without the marker
        return f'{block}<p class="source"><a href="{url}">{where}</a></p>\n'

    markdown = BLOCK.sub(name_source, markdown)
    parts = re.split(r"(^```.*?^```)", markdown, flags=re.S | re.M)
    return "".join(p if p.startswith("```") else LINK.sub(replace, p) for p in parts)


def on_page_context(context: Any, page: Page, config: MkDocsConfig, **_: Any) -> Any:
    """The language switch of a page: to its translation, or else to that language's first page."""
    here = page.file.src_uri
    english = here.replace(CHINESE, ".md")
    pages = {"en": english, "zh": english.replace(".md", CHINESE)}
    config.extra["alternate"] = [
        {"name": name, "lang": lang, "link": _url(pages[lang] if pages[lang] in home else first)}
        for name, lang, first in (("English", "en", "index.md"), ("中文", "zh", f"index{CHINESE}"))
    ]
    return context


def _url(page: str) -> str:
    return page.removesuffix(".md") + ".html"


def _add(files: Files, config: MkDocsConfig, page: str, path: str, text: str) -> None:
    home[page] = path
    files.append(File.generated(config, page, content=text))


def _add_linked_files(files: Files, config: MkDocsConfig, text: str, origin: str) -> None:
    paths = [_repository_path(match["target"], origin) for match in LINK.finditer(text)]
    paths += [match["path"] for match in BLOCK.finditer(text)]
    for path in paths:
        if path is None or (page := _page_of(path)) in files.src_uris:
            continue
        source = ROOT / path
        if source.is_dir():
            entries = sorted(p.name for p in source.iterdir() if not p.name.startswith("_"))
            body = "\n".join(f"- `{name}`" for name in entries)
        else:
            language = LANGUAGES.get(source.suffix, "text")
            body = source.read_text(encoding="utf-8")
            body = f'````{language} linenums="1"\n{body}\n````'
        head = "---\nsearch:\n  exclude: true\nhide: [navigation, toc]\n---\n"
        _add(files, config, page, path, f"{head}# {path}\n\n{body}\n")


def _repository_path(target: str, origin: str) -> str | None:
    """The path in the repository that a relative link of the file `origin` means."""
    if re.match(r"[a-z]+:|#", target):
        return None
    path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), target.partition("#")[0]))
    return path if (ROOT / path).exists() else None


def _page_of(path: str) -> str:
    if path in PAGES:
        return PAGES[path]
    return path.removeprefix("docs/") if path.startswith("docs/") else f"source/{path}.md"


def _line_of(path: str, symbol: str) -> int | None:
    """The line on which a Python file defines `symbol`."""
    if not path.endswith(".py") or not re.fullmatch(r"[\w.]+", symbol):
        return None
    found = find(ast.parse((ROOT / path).read_text(encoding="utf-8")), symbol)
    return found.lineno if found else None


def _add_reference(files: Files, config: MkDocsConfig) -> list[Any]:
    """A page for each package with what its modules define; returns their navigation."""
    import cupola

    public = []
    for name in (name for name in cupola.__all__ if name != "__version__"):
        found = getattr(cupola, name)
        options = (
            f"options: {{ heading: cupola.{name}, toc_label: {name}, skip_local_inventory: true }}"
        )
        public.append(f"::: {found.__module__}.{found.__qualname__}\n    {options}")
    intro = "Names that can be imported from `cupola` directly."
    _add_generated(files, config, "index", ["# cupola", intro, *public])
    nav: list[Any] = ["reference/index.md"]
    for package in sorted(p.parent for p in (ROOT / "src/cupola").glob("*/**/__init__.py")):
        name = ".".join(package.relative_to(ROOT / "src").parts)
        modules = [f"::: {name}.{p.stem}" for p in sorted(package.glob("[a-z]*.py"))]
        about = f"::: {name}\n    options: {{ members: false, show_root_heading: false, "
        about += "show_root_toc_entry: false }"
        short = name.removeprefix("cupola.")
        _add_generated(files, config, short, [f"# {name}", about, *modules])
        nav.append({short: f"reference/{short}.md"})
    return nav


def _add_generated(files: Files, config: MkDocsConfig, name: str, blocks: list[str]) -> None:
    page = f"reference/{name}.md"
    files.append(File.generated(config, page, content="\n\n".join(blocks) + "\n"))
