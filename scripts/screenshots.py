"""Takes README's screenshots from a running server: `python scripts/screenshots.py`."""

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from cupola.data.digits import DigitsInPhotos

DOCS = Path(__file__).parent.parent / "docs"
PORT = 8765
URL = f"http://127.0.0.1:{PORT}"


@contextlib.contextmanager
def server(bundle: str) -> Iterator[None]:
    """`cupola serve` until the block ends."""
    command = [sys.executable, "-m", "cupola", "serve", bundle, "--port", str(PORT)]
    process = subprocess.Popen([*command, "--workers", "1"])
    try:
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{URL}/v2/health/ready"):
                break
            time.sleep(0.1)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def open_page(browser: Browser, width: int, height: int) -> Any:
    page = browser.new_page(viewport={"width": width, "height": height})
    page.goto(URL)
    page.wait_for_selector("#model option", state="attached")
    return page


def detection(browser: Browser, image: Path) -> None:
    """The page of detr-digits with one image."""
    page = open_page(browser, 1180, 590)
    page.click("#tab-image")
    for _ in range(3):  # the first request is slower
        with page.expect_response("**/infer*"):
            page.set_input_files("#file", image)
    page.wait_for_timeout(500)
    page.screenshot(path=DOCS / "page.png")


def cameras(browser: Browser) -> None:
    """The page of detr3d-scenes with its first example."""
    for _ in range(3):  # the first request is slower
        page = open_page(browser, 1220, 870)
        page.wait_for_selector("#results li")
    page.screenshot(path=DOCS / "cameras.png")


def film(browser: Browser, folder: Path) -> None:
    """The page of `cupola explain detr-digits`: the build, attention, matching, data flow."""
    page = folder / "explain.html"
    command = [sys.executable, "-m", "cupola", "explain", "detr-digits", "--html", str(page)]
    subprocess.run(command, check=True)
    tab = browser.new_page(viewport={"width": 1320, "height": 880})
    tab.goto(page.as_uri())
    tab.wait_for_selector("body[data-ready=yes]")
    frames: list[tuple[Image.Image, int]] = []

    def shoot(milliseconds: int, action: str = "") -> None:
        if action:
            tab.evaluate(action)
        tab.wait_for_timeout(150)
        image = Image.open(io.BytesIO(tab.screenshot())).convert("RGB").resize((990, 660))
        frames.append((image, milliseconds))

    for step in range(0, 196, 15):
        shoot(180, f"move({step})")
    shoot(300, "move(195); select('')")
    shoot(1200, "document.querySelectorAll('#detail h2')[1].scrollIntoView()")
    set_range = "(n, v) => {{ const i = document.querySelectorAll('#detail input[type=range]')[n];"
    set_range += " i.value = v; i.dispatchEvent(new Event('input')); }}"
    for slider, values in ((0, (1, 2, 3)), (1, (1, 3, 5, 7, 8, 0))):
        for value in values:
            shoot(500, f"({set_range.format()})({slider}, {value})")
    for query in (1, 2, 4):
        shoot(700, f"document.querySelectorAll('.queries button')[{query}].click()")
    tab.get_by_role("button", name="cell → image").click()
    shoot(800)
    shoot(2500, "document.querySelectorAll('#detail h2')[2].scrollIntoView()")
    shoot(3000, "document.querySelector('svg.flow').scrollIntoView()")
    images, times = [image for image, _ in frames], [time for _, time in frames]
    images[0].save(
        DOCS / "explain.webp", save_all=True, append_images=images[1:], duration=times, quality=70
    )


def main() -> None:
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as driver, tempfile.TemporaryDirectory() as folder:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        film(browser, Path(folder))
        image = Path(folder, "digits.png")
        composed = DigitsInPhotos(split="val", seed=7, size=384).compose(39)
        Image.fromarray(composed.pixels).save(image)
        with server("detr-digits"):
            detection(browser, image)
        with server("detr3d-scenes"):
            cameras(browser)
        browser.close()


if __name__ == "__main__":
    main()
