"""Takes README's screenshots from a running server: `python scripts/screenshots.py`."""

import contextlib
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


def main() -> None:
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as driver, tempfile.TemporaryDirectory() as folder:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
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
