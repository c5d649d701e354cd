"""DETR3D behind a server: calibrated images in, boxes in space out; and the page for it."""

import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from serve_harness import Running, output

from cupola.bundles import Bundle
from cupola.runtime.io.sample_folder import example_folders, read_sample
from cupola.runtime.predictor import Predictor
from lazy import LazyModule

sync_api = LazyModule("playwright.sync_api")
NAME = "detr3d-scenes"
STREAM = "rep-detr3d-streets"
EXAMPLE = Bundle.load(NAME).path / "example"
INFER = f"/v2/models/{NAME}/infer"
PATIENCE = 60_000  # milliseconds
pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = Running(tmp_path_factory.mktemp("cameras"), models=[NAME, STREAM])
    running.start()
    try:
        running.wait_ready(120)
        yield running
    finally:
        running.stop()


def ask(server: Running, document: dict[str, Any], tail: bytes = b"") -> tuple[int, Any]:
    text = json.dumps(document).encode()
    headers = {"Inference-Header-Content-Length": str(len(text))}
    status, _, body = server.ask("POST", INFER, text + tail, headers)
    return status, json.loads(body)


def matrices_input() -> dict[str, Any]:
    matrices = read_sample(EXAMPLE)[1]
    data = matrices.reshape(-1).tolist()
    return {"name": "lidar2img", "datatype": "FP32", "shape": [6, 4, 4], "data": data}


def expect_boxes(answer: Any, images: list[Any]) -> None:
    found = Predictor.load(NAME)(images, read_sample(EXAMPLE)[1])
    assert len(found) > 3
    assert output(answer, "labels") == found.labels.tolist()
    np.testing.assert_allclose(
        np.reshape(output(answer, "boxes"), (-1, 9)), found.boxes.numpy(), atol=1e-3
    )


def test_images_as_jpeg_bytes(server: Running) -> None:
    images, tail = [], b""
    for image in read_sample(EXAMPLE)[0]:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=90)
        images.append(np.asarray(Image.open(file)))
        tail += len(file.getvalue()).to_bytes(4, "little") + file.getvalue()
    size = {"binary_data_size": len(tail)}
    files = {"name": "images", "datatype": "BYTES", "shape": [6], "parameters": size}
    status, answer = ask(server, {"inputs": [matrices_input(), files]}, tail)
    assert status == 200, answer
    expect_boxes(answer, images)


def test_images_as_tensors(server: Running) -> None:
    images = read_sample(EXAMPLE)[0]
    tail = np.stack(images).tobytes()
    size = {"binary_data_size": len(tail)}
    shape = [6, *images[0].shape]
    pixels = {"name": "pixels", "datatype": "UINT8", "shape": shape, "parameters": size}
    status, answer = ask(server, {"inputs": [pixels, matrices_input()]}, tail)
    assert status == 200, answer
    expect_boxes(answer, images)


def test_the_bundles_own_sample(server: Running) -> None:
    status, answer = ask(
        server, {"inputs": [], "parameters": {"example": 0, "return_images": True}}
    )
    assert status == 200, answer
    expect_boxes(answer, read_sample(EXAMPLE)[0])
    pixels = np.reshape(output(answer, "pixels"), (6, 96, 160, 3))
    np.testing.assert_array_equal(pixels, read_sample(EXAMPLE)[0])
    assert output(answer, "examples") == [4]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([matrices_input()], "send either `images`"),
        ([{**matrices_input(), "shape": [6, 16]}], "expected shape"),
        ([{**matrices_input(), "data": [float("nan")] * 96}], "not valid JSON"),
    ],
)
def test_bad_requests_are_named(server: Running, inputs: Any, message: str) -> None:
    status, answer = ask(server, {"inputs": inputs})
    assert status == 400
    assert message in answer["error"]


@pytest.fixture(params=[NAME])
def page(browser: Any, server: Running, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The page of a model, the single-frame one unless a test names the other."""
    problems: list[str] = []
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    opened.set_default_timeout(PATIENCE)
    opened.goto(f"http://127.0.0.1:{server.port}/pages/detection3d.html?model={request.param}")
    opened.wait_for_selector("#results li")
    yield opened
    opened.close()
    assert problems == []


def painted(page: Any, selector: str) -> str:
    """What a canvas shows."""
    return str(page.locator(selector).evaluate("canvas => canvas.toDataURL()"))


@pytest.mark.browser
def test_the_page_draws_boxes_in_every_view_and_from_above(page: Any) -> None:
    found = len(Predictor.load(NAME)(EXAMPLE))
    assert page.locator("#results li").count() == found
    captions = page.locator("#views figcaption").all_inner_texts()
    assert captions == ["Front left", "Front", "Front right", "Back left", "Back", "Back right"]
    assert page.locator("#play").is_hidden()
    front, above = "[data-camera='0']", "#above"
    before = painted(page, front), painted(page, above)
    page.hover("#results li:nth-child(2)")  # the others fade
    assert painted(page, front) != before[0]
    assert painted(page, above) != before[1]
    page.fill("#threshold", "0.95")
    assert page.locator("#results li").count() == 0
    assert painted(page, above) != before[1]


@pytest.mark.browser
def test_another_street_and_a_sample_of_ones_own(page: Any) -> None:
    body = page.locator("body")
    first = body.get_attribute("data-found") or ""
    page.click("#examples button:nth-child(3)")
    sync_api.expect(body).not_to_have_attribute("data-found", first, timeout=PATIENCE)
    assert page.locator("#examples button[aria-pressed=true]").inner_text() == "3"
    page.set_input_files("#files", sorted(EXAMPLE.glob("CAM_*.png")))
    page.wait_for_selector("#error:not([hidden])")
    assert "choose sample.json" in page.inner_text("#error")
    page.set_input_files("#files", [*EXAMPLE.glob("CAM_*.png"), EXAMPLE / "sample.json"])
    sync_api.expect(body).to_have_attribute("data-found", first, timeout=PATIENCE)
    assert "CAM_FRONT_LEFT" in page.locator("#views figcaption").all_inner_texts()
    assert page.locator("#examples button[aria-pressed=true]").count() == 0


@pytest.mark.browser
def test_pointing_at_a_box_marks_its_line(page: Any) -> None:
    boxes = Predictor.load(NAME)(EXAMPLE).boxes.tolist()
    number, box = next((i, b) for i, b in enumerate(boxes) if abs(b[0]) < 15)  # on the canvas
    frame = page.locator("#above").bounding_box()
    assert frame is not None
    scale = frame["width"] / 2 / 36  # pixels per meter
    x = frame["width"] / 2 + box[1] * scale
    y = frame["height"] / 2 + box[0] * scale
    page.locator("#above").hover(position={"x": x, "y": y})
    assert page.locator("#results li.hot").count() == 1
    line = page.locator(f"#results li:nth-child({number + 1})")
    assert "hot" in str(line.get_attribute("class"))


@pytest.mark.browser
@pytest.mark.parametrize("page", [STREAM], indirect=True)
@pytest.mark.slow
def test_a_drive_is_played_as_one_sequence(page: Any) -> None:
    predictor: Any = Predictor.load(STREAM)
    stream, folders = predictor.new_stream(), example_folders(predictor.folder)
    counts = [len(stream(folder)) for folder in folders]
    assert len(folders) == 12
    page.click("#play")
    sync_api.expect(page.locator("#play")).to_have_text("Stop")
    last = page.locator("#examples button:last-child")
    sync_api.expect(last).to_have_attribute("aria-pressed", "true", timeout=PATIENCE)
    sync_api.expect(page.locator("#play")).to_have_text("Play the drive", timeout=PATIENCE)
    assert page.locator("#results li").count() == counts[-1]
    page.click("#examples button:nth-child(3)")  # as it was, with the state of two frames
    lines = page.locator("#results li .where").all_inner_texts()
    assert len(lines) == counts[2]
    numbers = [int(line.split(" ")[0].removeprefix("#")) for line in lines]
    assert len(set(numbers)) == len(numbers) and min(numbers) <= counts[0]  # of the first frame


LINK = """async () => {
  const { follow } = await import("/pages/detection3d/tracks.js");
  const at = (label, x, y, vy, score = 0.5) => (
    { score, label, box: [x, y, 0, 4, 2, 2, 0, 0, vy] });
  const pose = (y) => [1, 0, 0, 0, 0, 1, 0, y, 0, 0, 1, 0, 0, 0, 0, 1];
  const frame = (t, boxes) => ({ boxes, seconds: t / 2, pose: pose(5 * t) });
  const frames = [  // the vehicle moves 5 m ahead from frame to frame
    frame(0, [at(0, 2, 10, 8), at(0, -2, 20, 0)]),
    frame(1, [at(0, -2, 15.5, 0), at(0, 2, 9, 8, 0.2), at(1, 2, 9, 8)]),
    frame(2, [at(0, -2, 10, 0), at(0, 2, 8, 8), at(0, 9, 9, 0, 0.2)]),
  ];
  follow(frames, 0.3);
  return frames.at(-1).boxes.map(({ track }) => track ?? null);
}"""


@pytest.mark.browser
def test_tracks_follow_velocities_and_the_vehicle(page: Any) -> None:
    parked, ahead, unlikely = page.evaluate(LINK)
    assert unlikely is None
    assert (parked["number"], ahead["number"]) == (2, 1)
    assert parked["trail"] == [[-2, 10], [-2, 10.5], [-2, 10]]
    assert ahead["trail"] == [[2, 0], [2, 4], [2, 8]]
