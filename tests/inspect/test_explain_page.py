"""The page: self-contained, injection-proof, driven by keys, in headless Chromium."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe

from cupola import inspect, nn
from cupola.bundles import Bundle, shipped_names
from cupola.cli.explained_model import load_model
from cupola.config import Config
from cupola.errors import InputError
from cupola.inspect import describe, page
from cupola.inspect.image_view import view_of_image
from cupola.inspect.own_shape import own_shape
from cupola.inspect.page import SCRIPTS, embed
from cupola.inspect.views import view_of
from cupola.registry import MODELS, build

ENGINES = {
    "machine": "a processor, 1 threads",
    "rows": [
        {"engine": "eager", "runs": "yes", "ms": 20.0, "difference": "", "chosen": False},
        {"engine": "folded", "runs": "yes", "ms": 10.0, "difference": "1e-5", "chosen": True},
        {"engine": "openvino", "runs": "not here", "ms": None, "difference": "", "chosen": False},
    ],
}
EVIL = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>"


@MODELS.register_module("PageModel", force=True)
class PageModel(nn.Module):
    def __init__(self, body: dict[str, Any], note: str = "") -> None:
        super().__init__()
        self.body = MODELS.build(body)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).mean((2, 3)))

    def inspect(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        scores = torch.tensor([[0.02, 0.96], [0.9, 0.05]])
        boxes = torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.3, 0.3, 0.2, 0.2]])
        return {"scores": scores, "boxes": boxes, "attention": torch.full((2, 2, 2), 0.25)}


@MODELS.register_module("PageBody", force=True)
class PageBody(nn.Sequential):
    def __init__(self, dim: int) -> None:
        super().__init__(nn.Conv2d(3, dim, 3), nn.ReLU())


def written(folder: Path) -> tuple[Any, Path]:
    """The page of a model whose config and labels try to inject script."""
    config = f"model = dict(type='PageModel', note={EVIL!r},\n body=dict(type='PageBody', dim=8))\n"
    (folder / "evil.py").write_text(config)
    model = build(Config.load(folder / "evil.py"))
    pixels = np.full((20, 30, 3), 128, dtype=np.uint8)
    view = view_of_image(model, pixels, labels=(EVIL, "seven"))
    out = folder / "page.html"
    out.write_text(page(describe(model, (3, 16, 16)), EVIL, view), encoding="utf-8")
    return model, out


def test_nothing_in_the_data_can_end_the_script() -> None:
    text = embed({"a": EVIL, "b": "\u2028&amp;"})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"a": EVIL, "b": "\u2028&amp;"}


def test_the_page_needs_no_network(tmp_path: Path) -> None:
    text = written(tmp_path)[1].read_text("utf-8")
    assert "default-src 'none'" in text
    assert text.count("<script") == 2
    assert "<link" not in text and "@import" not in text and "fetch(" not in text


def test_a_view_needs_inspect() -> None:
    with pytest.raises(InputError, match=r"Linear has no inspect\(\)"):
        view_of_image(nn.Linear(1, 1), np.zeros((4, 4, 3), dtype=np.uint8))


def test_the_work_for_a_page_grows_with_the_modules_and_no_faster() -> None:
    def calls(count: int) -> int:
        model = torch.nn.Sequential(*(torch.nn.Sequential(torch.nn.ReLU()) for _ in range(count)))
        description, seen = describe(model, (4,)), 0

        def note(frame: Any, event: str, argument: Any) -> None:
            nonlocal seen
            seen += event in ("call", "c_call")

        sys.setprofile(note)
        try:
            text = page(description, "large")
        finally:
            sys.setprofile(None)
        assert text.count('"path"') >= 2 * count
        return seen

    few = calls(100)
    assert calls(800) < 9 * few  # 8 times if linear, 64 if quadratic


@pytest.mark.browser
def test_the_page_in_a_browser(browser: Any, tmp_path: Path) -> None:
    _, out = written(tmp_path)
    requests: list[str] = []
    errors: list[str] = []
    tab = browser.new_page()
    tab.on("request", lambda request: requests.append(request.url))
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.goto(out.as_uri())
    tab.wait_for_selector("body[data-ready=yes]")
    assert tab.title().startswith(EVIL)
    assert tab.evaluate("window.hacked") is None

    rows = tab.locator("[role=treeitem]")
    assert rows.count() == 5
    tab.locator("#tree").focus()
    tab.keyboard.press("ArrowDown")
    assert "body: PageBody" in tab.locator("#detail h2").first.inner_text()
    assert "class PageBody" in tab.locator("#detail").inner_text()
    assert "evil.py:2" in tab.locator("#detail").inner_text()
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowRight")
    assert "1x8x14x14" in tab.locator("#detail dl").inner_text()
    tab.keyboard.press("/")
    tab.keyboard.type("linear")
    assert tab.locator("[role=treeitem]:visible").count() == 1
    tab.keyboard.press("Enter")
    assert "head: Linear" in tab.locator("#detail h2").first.inner_text()

    tab.keyboard.press("Home")
    tab.locator(".queries button", has_text="seven").click()
    assert tab.locator(".queries button[aria-pressed=true]").count() == 1
    tab.locator("#step").fill("2")
    assert tab.locator("#caption").inner_text().startswith("2/")
    assert tab.locator(".row.unmade").count() == 3
    assert tab.evaluate("window.hacked") is None
    assert errors == []
    assert all(url.startswith(("file:", "data:")) for url in requests)


SERIOUS = ("serious", "critical")


def test_every_script_of_the_page_is_used() -> None:
    web = Path(str(inspect.__file__)).parent / "web"
    assert {path.name for path in web.glob("*.js")} == set(SCRIPTS)


@pytest.fixture(scope="module")
def explained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`explained(name)` is the page of a shipped bundle, written once."""
    folder, written = tmp_path_factory.mktemp("pages"), {}

    def write(name: str) -> str:
        if name not in written:
            bundle = Bundle.load(name)
            model, origins = load_model(name, bundle, [])
            description = describe(model, own_shape(model, name, bundle), run=True, origins=origins)
            out = folder / f"{name}.html"
            text = page(description, name, view_of(model, bundle), ENGINES)
            out.write_text(text, encoding="utf-8")
            written[name] = out.as_uri()
        return written[name]

    return write


def opened(browser: Any, address: str, width: int = 1300, scheme: str = "light") -> Any:
    """A tab with the page; its script errors end the test."""
    context = browser.new_context(
        bypass_csp=True, viewport={"width": width, "height": 900}, color_scheme=scheme
    )
    tab = context.new_page()
    tab.errors = []
    tab.on("pageerror", lambda error: tab.errors.append(str(error)))
    tab.goto(address)
    tab.wait_for_selector("body[data-ready=yes]")
    return tab


EVERY = [
    pytest.param(name, marks=() if name == "detr-digits" else pytest.mark.slow)
    for name in shipped_names()
]


@pytest.mark.browser
@pytest.mark.parametrize("name", EVERY)
def test_pages_are_accessible_at_every_width(browser: Any, explained: Any, name: str) -> None:
    for width, scheme in ((1300, "dark"), (390, "light")):
        tab = opened(browser, explained(name), width, scheme)
        tab.wait_for_timeout(200)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        broken = Axe().run(tab).response["violations"]
        assert [each["id"] for each in broken if each["impact"] in SERIOUS] == [], (width, scheme)
        assert tab.errors == []
        tab.context.close()


@pytest.mark.browser
def test_layers_heads_and_cells_are_chosen(browser: Any, explained: Any) -> None:
    tab = opened(browser, explained("detr-digits"))
    said = tab.locator("#detail p.soft").first
    assert said.inner_text() == "cross-attention, layer 3 of 3, mean of 8 heads"
    picture = tab.locator("#image canvas").first
    pictures = {picture.evaluate("canvas => canvas.toDataURL()")}
    tab.get_by_label("Layer", exact=True).fill("1")
    tab.get_by_label("Head, 0 is their mean").fill("5")
    assert said.inner_text() == "cross-attention, layer 1 of 3, head 5 of 8"
    pictures.add(picture.evaluate("canvas => canvas.toDataURL()"))
    picture.click(position={"x": 30, "y": 30})
    assert said.inner_text().startswith(
        "self-attention of the encoder, from the marked cell, layer 1"
    )
    pictures.add(picture.evaluate("canvas => canvas.toDataURL()"))
    picture.press("ArrowRight")
    pictures.add(picture.evaluate("canvas => canvas.toDataURL()"))
    tab.get_by_role("button", name="query → queries").click()
    pictures.add(picture.evaluate("canvas => canvas.toDataURL()"))
    assert len(pictures) == 5
    table = tab.locator("#detail table").first
    assert "← assigned" in table.inner_text()
    tab.get_by_label("Decoder layer of the matching").fill("1")
    assert table.locator("tr.own").count() == 4
    engines = tab.locator("table.engines")
    chosen = engines.locator("tr.own").inner_text()
    assert chosen.split() == ["folded", "←", "auto", "10.0", "ms", "1e-5"]
    widths = engines.locator(".bar").evaluate_all("bars => bars.map(bar => bar.offsetWidth)")
    assert widths == [120, 60]
    assert "not here" in engines.locator("tr.why").inner_text()
    assert tab.errors == []


@pytest.mark.browser
def test_keys_and_announcements(browser: Any, explained: Any) -> None:
    tab = opened(browser, explained("detr-digits"))
    tab.locator("#tree").focus()
    tab.keyboard.press("ArrowDown")
    row = tab.locator("#tree").get_attribute("aria-activedescendant")
    assert "data_preprocessor" in tab.locator(f"#{row}").inner_text()
    assert tab.locator("#said").inner_text().startswith("data_preprocessor: DetDataPreprocessor")
    tab.keyboard.press("Home")
    box = tab.get_by_role("button", name="decoder, DetrTransformerDecoder")
    takes = "takes encoder and positional_encoding and query_embedding"
    assert str(box.get_attribute("aria-label")).endswith(takes)
    box.focus()
    assert tab.locator("path.lit").count() == 4
    tab.keyboard.press(" ")  # opens the box, and does not start the story
    assert "decoder: DetrTransformerDecoder" in tab.locator("#detail h2").first.inner_text()
    assert tab.locator("#play").inner_text() == "Play"
    tab.evaluate("select('decoder.post_norm')")
    assert "decoder.post_norm.weight" in tab.locator("#detail table").first.inner_text()
