"""The page at /, in headless Chromium: drop an image, write with the finger, move the slider."""

import base64
import io
import time
from collections.abc import Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from serve_harness import Running, write_bundle

from lazy import LazyModule

sync_api = LazyModule("playwright.sync_api")
pytestmark = [pytest.mark.browser, pytest.mark.processes]
SERIOUS = ("serious", "critical")
DROP = """async ([text, name]) => {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name, { type: "image/png" }));
  document.dispatchEvent(new DragEvent("drop", { dataTransfer: data, cancelable: true }));
}"""


@pytest.fixture(scope="module")
def finder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("page")
    bundles = [write_bundle(folder, "finder", task="detection"),
               write_bundle(folder, "speaker", task="language")]  # fmt: skip
    running = Running(folder / "server", models=[str(b) for b in bundles])
    running.start()
    running.wait_ready()
    yield running
    running.stop()


@pytest.fixture
def page(browser: Any, finder: Running) -> Iterator[Any]:
    opened = browser.new_page(viewport={"width": 1180, "height": 800})
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    with opened.expect_response("**/infer*"):  # the example, which runs at once
        opened.goto(f"http://127.0.0.1:{finder.port}/")
    opened.wait_for_selector("#model option", state="attached")
    yield opened
    assert problems == []
    opened.close()


def image() -> str:
    """Gray, with a white rectangle at (40, 30)-(100, 90)."""
    made = Image.new("RGB", (200, 160), (90, 90, 90))
    made.paste((255, 255, 255), (40, 30, 100, 90))
    file = io.BytesIO()
    made.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_drop_a_image(page: Any) -> None:
    with page.expect_response("**/infer*") as answer:
        page.evaluate(DROP, [image(), "digits.png"])
    boxes = next(o for o in answer.value.json()["outputs"] if o["name"] == "boxes")
    assert boxes["data"] == [40, 30, 100, 90]
    page.wait_for_selector("#results li")
    assert page.inner_text("#results li .chip") == "7"
    color = page.evaluate(
        "[...document.querySelector('#overlay').getContext('2d').getImageData(40, 60, 1, 1).data]"
    )
    assert color[3] > 0  # the left edge of the box is drawn


def test_the_threshold_hides_what_is_below(page: Any) -> None:
    page.evaluate(DROP, [image(), "digits.png"])
    page.wait_for_selector("#results li")
    page.fill("#threshold", "0.95")
    assert page.locator("#results li").count() == 0
    page.fill("#threshold", "0.5")
    assert page.locator("#results li").count() == 1


def test_write_with_the_finger(page: Any) -> None:
    page.click("#tab-write")
    frame = page.locator("#overlay").bounding_box()
    assert frame is not None
    x, y = frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 2
    with page.expect_response("**/infer*") as answer:
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 60, y + 80, steps=8)
        page.mouse.up()
    assert answer.value.status == 200
    page.wait_for_selector("#results li")
    page.click("#clear")
    assert page.locator("#results li").count() == 0


def test_a_file_that_is_no_image(page: Any) -> None:
    page.evaluate(DROP, [base64.b64encode(b"no image").decode(), "x.png"])
    page.wait_for_selector("#error:not([hidden])")
    assert "cannot read this file as an image" in page.inner_text("#error")


def test_text_streams_into_the_page(page: Any) -> None:
    page.select_option("#model", "speaker")
    page.wait_for_url("**/pages/language.html?model=speaker")
    page.click("#continue")
    sync_api.expect(page.locator("#text")).to_contain_text("w4 ", timeout=60_000)


def test_a_click_before_the_models_are_known_is_not_lost(page: Any) -> None:

    def later(route: Any) -> None:
        time.sleep(1)
        route.continue_()

    page.route("**/models.json", later)
    page.goto(page.url.partition("?")[0] + "pages/language.html?model=speaker")
    page.click("#continue")
    sync_api.expect(page.locator("#text")).to_contain_text("w4 ", timeout=60_000)


def test_a_photo_dropped_before_the_models_are_known_is_not_lost(page: Any) -> None:
    held: list[Any] = []
    page.route("**/models.json", lambda route: held.append(route))
    page.goto(page.url)
    page.evaluate(DROP, [image(), "digits.png"])
    page.wait_for_selector("#image:not([hidden])")
    with page.expect_response("**/infer*") as answer:
        held[0].continue_()
    boxes = next(o for o in answer.value.json()["outputs"] if o["name"] == "boxes")
    assert boxes["data"] == [40, 30, 100, 90]


def test_the_status_page(page: Any) -> None:
    page.goto(page.url.partition("?")[0] + "status")
    page.wait_for_selector("#tree li li")
    tree = page.inner_text("#tree")
    assert "worker 0, generation 1" in tree and "runner finder 0" in tree
    assert "finder" in page.inner_text("#models-table")
    assert "reload settings and models" in page.inner_text("#signals")
    assert "generation 1 serves" in page.inner_text("#events")


def test_an_example_runs_at_once_and_the_model_stands_in_the_address(page: Any) -> None:
    assert page.locator("#tab-image").get_attribute("aria-selected") == "true"  # not of digits
    assert page.url.endswith("/?model=finder")
    page.goto(page.url.replace("finder", "speaker"))
    page.wait_for_url("**/pages/language.html?model=speaker")
    page.fill("#temperature", "0")
    page.fill("#max_tokens", "7")
    assert '"max_tokens":7,"temperature":0' in page.locator("#curl").text_content()


@pytest.mark.parametrize("path", ["", "pages/language.html", "status"])
def test_pages_are_accessible_and_follow_the_browser(
    browser: Any, finder: Running, path: str
) -> None:
    context = browser.new_context(
        locale="zh-CN", color_scheme="dark", viewport={"width": 390, "height": 800}, bypass_csp=True
    )
    tab = context.new_page()
    tab.goto(f"http://127.0.0.1:{finder.port}/{path}")
    tab.wait_for_selector("#tree li li" if path == "status" else "#model option", state="attached")
    broken = Axe().run(tab).response["violations"]
    assert [
        (each["id"], each["nodes"][0]["html"]) for each in broken if each["impact"] in SERIOUS
    ] == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    assert tab.evaluate("document.documentElement.lang") == "zh-CN"
    assert "状态" in tab.inner_text("nav")
    context.close()


def test_it_fits_a_phone(browser: Any, finder: Running) -> None:
    phone = browser.new_page(viewport={"width": 360, "height": 740}, has_touch=True)
    phone.goto(f"http://127.0.0.1:{finder.port}/")
    phone.wait_for_selector("#model option", state="attached")
    wide = phone.evaluate("document.documentElement.scrollWidth")
    phone.close()
    assert wide <= 360
