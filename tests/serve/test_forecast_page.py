"""The forecast page in headless Chromium: states stream in under a slider, beside the truth."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from serve_harness import Running

from lazy import LazyModule
from toys import toy_bundle

sync_api = LazyModule("playwright.sync_api")


@pytest.mark.browser
@pytest.mark.processes
def test_a_forecast_is_watched(browser: Any, serve: Callable[..., Running], tmp_path: Path) -> None:
    running = serve(models=[str(toy_bundle(tmp_path / "toy"))])
    problems: list[str] = []
    page = browser.new_page()
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    page.goto(f"http://127.0.0.1:{running.port}/")
    page.wait_for_selector("#model option", state="attached")
    page.fill("#steps", "5")
    page.fill("#members", "2")
    page.click("#go")
    sync_api.expect(page.locator("#message")).to_have_text("5 states")
    sync_api.expect(page.locator("#lead")).to_have_text("+2.5 turns (5 of 5)")
    sync_api.expect(page.locator("#truth-figure")).to_be_hidden()  # it is known for 3 steps
    sync_api.expect(page.locator("#spread-figure")).to_be_visible()
    page.locator("#slider").fill("1")
    sync_api.expect(page.locator("#lead")).to_have_text("+1 turns (2 of 5)")
    sync_api.expect(page.locator("#truth-figure")).to_be_visible()
    page.select_option("#channel", "v")
    page.fill("#example", "7")
    page.click("#go")
    sync_api.expect(page.locator("#message")).to_contain_text("example: expected 0..1, got 7")
    assert all("400" in problem for problem in problems), problems
