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
    page.click("#go")
    sync_api.expect(page.locator("#message")).to_have_text("3 states")  # as recorded
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


@pytest.mark.browser
@pytest.mark.processes
@pytest.mark.slow
def test_a_map_has_coastlines_units_and_dates(
    browser: Any, serve: Callable[..., Running], tmp_path: Path
) -> None:
    axes = {
        "latitude": {"start": 78.75, "step": -22.5, "size": 8},
        "longitude": {"start": 0.0, "step": 22.5, "size": 16},
    }
    settings = {"grid": axes, "interval": 6.0, "interval_unit": "hours", "channels": ["u10", "v10"]}
    starts = ["2018-01-01T00:00:00", "2018-01-02T00:00:00"]
    folder = toy_bundle(tmp_path / "toy", **settings, example_starts=starts)
    running = serve(models=[str(folder)])
    problems: list[str] = []
    page = browser.new_page()
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(f"http://127.0.0.1:{running.port}/")
    page.wait_for_selector("#model option", state="attached")
    page.fill("#steps", "2")
    page.fill("#init", "2018-01-02")
    page.select_option("#convention", "wb")
    page.click("#go")
    sync_api.expect(page.locator("#message")).to_have_text("2 states")
    page.locator("#slider").fill("1")
    sync_api.expect(page.locator("#valid")).to_have_text("Valid at 2018-01-02 12:00 UTC")
    sync_api.expect(page.locator("#middle")).to_contain_text("m s-1")
    sync_api.expect(page.locator("#channel option").first).to_have_text("10m_u_component_of_wind")
    dark = page.evaluate(
        """() => {
        const canvas = document.getElementById("field");
        const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        let dark = 0;
        for (let i = 0; i < data.length; i += 4) {
          dark += data[i] < 60 && data[i + 1] < 45 && data[i + 2] < 60;
        }
        return dark;
    }"""
    )
    assert dark > 500  # the coastlines
    page.fill("#init", "1999-01-01")
    page.click("#go")
    sync_api.expect(page.locator("#message")).to_contain_text("no example starts at 1999-01-01")
    assert all("400" in problem for problem in problems), problems
