"""The page: self-contained, injection-proof, driven by keys, in headless Chromium."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cupola import nn
from cupola.config import Config
from cupola.errors import InputError
from cupola.inspect import describe, page
from cupola.inspect.image_view import view_of_image
from cupola.inspect.page import embed
from cupola.registry import MODELS, build

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
