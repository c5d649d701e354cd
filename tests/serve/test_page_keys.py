"""The pages of a server with API keys, in headless Chromium: they ask for a key and send it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from serve_harness import Running, until, write_bundle

from cupola.serve.access.keys import hash_of
from lazy import LazyModule

sync_api = LazyModule("playwright.sync_api")
pytestmark = [pytest.mark.browser, pytest.mark.processes]
DETECTOR, OPERATOR, SPEAKER = "cupola-detector", "cupola-operator", "cupola-speaker"


def entries() -> list[dict[str, Any]]:
    return [
        {"name": "detector", "hash": hash_of(DETECTOR)},
        {"name": "operator", "hash": hash_of(OPERATOR), "operations": True},
        {"name": "speaker", "hash": hash_of(SPEAKER), "models": ["speaker"]},
    ]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("keys")
    bundles = [write_bundle(folder, "finder", task="detection"),
               write_bundle(folder, "speaker", task="language")]  # fmt: skip
    log = str(folder / "access.log")
    running = Running(
        folder / "server", models=[str(b) for b in bundles], api_keys=entries(), access_log=log
    )
    running.start()
    running.wait_ready()
    yield running
    running.stop()


@pytest.fixture
def visit(browser: Any, server: Running) -> Iterator[Callable[..., Any]]:
    """Opens a path in a new window, whose session storage is empty."""
    contexts, problems = [], []

    def opened(path: str = "", locale: str = "en-US") -> Any:
        contexts.append(browser.new_context(locale=locale))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(f"http://127.0.0.1:{server.port}/{path}")
        page.wait_for_selector("dialog[open]")
        return page

    yield opened
    assert problems == []
    for context in contexts:
        context.close()


def enter(page: Any, key: str) -> None:
    page.fill("dialog input", key)
    page.click("dialog button[value=use]")


def violations(page: Any) -> list[str]:
    found = Axe().run(page).response["violations"]
    return [one["id"] for one in found if one["impact"] in ("serious", "critical")]


def test_a_page_asks_for_the_key_and_sends_it(server: Running, visit: Callable[..., Any]) -> None:
    page = visit()
    assert page.inner_text("dialog h2") == "API key"
    assert page.evaluate("document.activeElement.type") == "password"
    assert violations(page) == []
    for wrong in ("cupola-x", "密钥"):  # the second cannot be sent in a header
        enter(page, wrong)
        refused = page.locator("dialog[open] .refused")
        sync_api.expect(refused).to_have_text("The server does not accept this API key.")
    with page.expect_response(lambda found: "/infer" in found.url and found.ok) as answer:
        enter(page, DETECTOR)
    assert answer.value.request.header_value("authorization") == f"Bearer {DETECTOR}"
    assert DETECTOR not in page.url and DETECTOR not in page.inner_text("body")
    sync_api.expect(page.locator("#curl")).to_contain_text("Bearer $API_KEY")
    assert page.evaluate("[document.cookie, localStorage.length, sessionStorage.length]") == [
        "", 0, 1,
    ]  # fmt: skip
    page.select_option("#model", "speaker")  # another page of this tab knows the key
    page.click("#continue")
    sync_api.expect(page.locator("#text")).to_contain_text("w4 ", timeout=60_000)
    assert page.locator("dialog").count() == 0
    assert DETECTOR not in Path(server.settings["access_log"]).read_text()


def test_the_texts_in_chinese(visit: Callable[..., Any]) -> None:
    page = visit(locale="zh-CN")
    text = page.inner_text("dialog")
    assert "此服务器需要 API 密钥" in text and "使用此密钥" in text and "取消" in text
    assert page.get_by_label("密钥").count() >= 1 and violations(page) == []


def test_who_cancels_can_enter_the_key_later(visit: Callable[..., Any]) -> None:
    page = visit()
    page.keyboard.press("Escape")
    sync_api.expect(page.locator("#error")).to_have_text("This server needs an API key.")
    page.click("#key")
    page.wait_for_selector("dialog[open]")
    with page.expect_response(lambda found: "/infer" in found.url and found.ok):
        enter(page, DETECTOR)
    page.click("#key")  # an empty field removes the key
    page.wait_for_selector("dialog[open]")
    with page.expect_navigation():
        enter(page, "")
    page.wait_for_selector("dialog[open]")
    assert page.evaluate("sessionStorage.length") == 0


def test_a_key_for_one_model_shows_only_that(visit: Callable[..., Any]) -> None:
    page = visit()
    enter(page, SPEAKER)
    page.wait_for_url("**/pages/language.html?model=speaker")
    page.wait_for_selector("#model option", state="attached")
    assert page.locator("#model option").all_inner_texts() == ["speaker"]


def test_the_status_page_needs_a_key_for_operators(visit: Callable[..., Any]) -> None:
    page = visit("status")
    enter(page, DETECTOR)
    summary = page.locator("#summary")
    sync_api.expect(summary).to_have_text("This API key is not for operators.")
    page.click("#key")
    enter(page, OPERATOR)
    page.wait_for_selector("#tree li li")
    assert violations(page) == []
    page.click("nav a[href$=metrics]")
    page.wait_for_url("blob:**")
    assert "cupola_" in page.inner_text("body")


def test_a_key_that_is_replaced_is_asked_for_again(
    server: Running, visit: Callable[..., Any]
) -> None:
    page = visit("pages/language.html")
    enter(page, SPEAKER)
    page.click("#continue")
    sync_api.expect(page.locator("#text")).to_contain_text("w4 ", timeout=60_000)
    changed = entries()
    changed[2]["hash"] = hash_of("cupola-new")
    server.configure(api_keys=changed)
    server.reload()
    until(lambda: {child["generation"] for child in server.children()} == {2})
    page.click("#continue")
    refused = page.locator("dialog[open] .refused")
    sync_api.expect(refused).to_have_text("The server does not accept this API key.")
    with page.expect_response(lambda found: "/completions" in found.url and found.ok):
        enter(page, "cupola-new")


def test_what_is_open_without_a_key(server: Running) -> None:
    for path in (
        "/",
        "/status",
        "/pages/language.html",
        "/pages/style.css",
        "/pages/status/page.js",
    ):
        assert server.ask("GET", path)[0] == 200, path
    for path in ("/pages/models.json", "/status.json", "/metrics", "/openapi.json"):
        assert server.ask("GET", path)[0] == 401, path
