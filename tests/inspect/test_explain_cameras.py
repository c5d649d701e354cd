"""`cupola explain detr3d-scenes --image SAMPLE_FOLDER`: where queries looked, in six images."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cupola.bundles import Bundle
from cupola.cli.explain import app
from cupola.cli.explained_model import load_model
from cupola.errors import InputError
from cupola.inspect import describe, page
from cupola.inspect.cameras_view import view_of_cameras
from cupola.inspect.views import view_of
from cupola.models.detr3d.feature_sampling import Cameras
from cupola.nn import Linear
from cupola.runtime.io.sample_folder import read_sample
from cupola.runtime.predictor import Predictor
from cupola.runtime.predictors.detection3d import Detection3DPredictor

NAME = "detr3d-scenes"
EXAMPLE = Bundle.load(NAME).path / "example" / "2"


@pytest.fixture(scope="module")
def told() -> tuple[Detection3DPredictor, dict[str, Any], dict[str, Any]]:
    """The predictor, the batch, and the view of an example."""
    predictor = Predictor.load(NAME)
    assert isinstance(predictor, Detection3DPredictor)
    sample = predictor.sample(*read_sample(EXAMPLE))
    batch = predictor.batch([sample])
    view = view_of_cameras(predictor.model, sample.images, batch, predictor.labels, top=5)
    return predictor, batch, view


def test_weights_are_those_of_the_forward_pass(told) -> None:
    predictor, batch, _ = told
    seen = predictor.model.inspect(**batch)
    layer = predictor.model.pts_bbox_head.transformer.decoder.layers[0].attentions[1]
    caught: list[torch.Tensor] = []
    handle = layer.output_proj.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
    predictor.model(**batch)
    handle.remove()
    levels = predictor.model.extract(batch["pixels"])
    cameras = Cameras(batch["lidar2img"], torch.tensor([[96.0, 160.0]]))
    projection = cameras.project(seen["references"][:1])
    total = 0
    for number, level in enumerate(levels):  # the sum that the paper's equation 4 writes
        grid = (projection.uv[0] * 2 - 1)[:, :, None]  # [N, Q, 1, 2]
        read = torch.nn.functional.grid_sample(level[0], grid, align_corners=False)[..., 0]
        total = total + (read * seen["weights"][0, :, None, :, number]).sum(0)  # [C, Q]
    torch.testing.assert_close(caught[0][0], total.T, atol=1e-4, rtol=1e-4)
    assert seen["levels"].tolist() == [[12, 20], [6, 10], [3, 5]]


def test_the_view_holds_the_best_queries_and_their_looks(told) -> None:
    predictor, _, view = told
    assert len(view["images"]) == 6 and view["images"][0].startswith("data:image/jpeg")
    assert view["levels"][0] == pytest.approx([8 / 160, 8 / 96])
    best = predictor(EXAMPLE)
    scores = [query["score"] for query in view["queries"]]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == pytest.approx(float(best.scores[0]), abs=1e-3)
    assert view["queries"][0]["label"] == best.name(int(best.labels[0]))
    for query in view["queries"]:
        assert len(query["layers"]) == 4
        assert any(query["lines"])  # its box is seen by some camera
        for look in query["layers"]:
            for seen in look["cameras"]:
                assert min(seen["uv"]) > 0 and max(seen["uv"]) < 1
                assert len(seen["weights"]) == 3 and min(seen["weights"]) > 0
            shares = [other["weight"] for other in look["queries"]]
            assert shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 1.001
            named = {each["query"]: each["label"] for each in view["queries"]}
            assert all(
                each["label"] == named.get(each["query"], each["label"]) for each in look["queries"]
            )


def test_what_cannot_be_shown_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Linear takes no sample folder; give it an image"):
        view_of_cameras(Linear(1, 1), np.zeros((6, 4, 4, 3), np.uint8), {})
    arguments = ["detr-digits", "--image", str(tmp_path), "--html", str(tmp_path / "x.html")]
    with pytest.raises(InputError, match="needs a bundle of a multi-camera model"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


@pytest.mark.browser
def test_the_page_in_a_browser(browser: Any, told, tmp_path: Path) -> None:
    predictor, _, view = told
    out = tmp_path / "page.html"
    out.write_text(page(describe(predictor.model), NAME, view), encoding="utf-8")
    errors: list[str] = []
    tab = browser.new_page()
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.goto(out.as_uri())
    tab.wait_for_selector("body[data-ready=yes]")
    tab.wait_for_function("document.querySelector('.views canvas').width === 480")
    assert tab.locator(".views canvas").count() == 6
    weights = tab.locator(".looks tr").last.inner_text()
    shown = tab.locator(".views").screenshot()
    tab.locator("#layer").fill("1")
    assert tab.locator(".layers output").inner_text().startswith("1 of 4, at ")
    assert tab.locator(".looks tr").last.inner_text() != weights
    tab.locator(".queries button").nth(1).click()
    assert tab.locator(".queries button").nth(1).get_attribute("aria-pressed") == "true"
    assert tab.locator(".views").screenshot() != shown
    assert errors == []


@pytest.mark.slow
def test_the_command_writes_the_page(tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    done = CliRunner().invoke(
        app, [NAME, "--image", str(EXAMPLE), "--html", str(out)], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    assert '"kind":"cameras"' in out.read_text(encoding="utf-8")
    assert f"{out}: written" in done.output.replace("\n", "")


def test_a_model_without_a_view_says_so() -> None:
    silent = SimpleNamespace(pts_bbox_head=None)
    with pytest.raises(InputError, match="SimpleNamespace does not tell where its queries looked"):
        view_of_cameras(silent, np.zeros((6, 96, 160, 3), np.uint8), {})


def test_a_model_of_streams_tells_where_it_sampled() -> None:
    bundle = Bundle.load("rep-detr3d-streets")
    found = view_of(load_model("rep-detr3d-streets", bundle, [])[0], bundle)
    assert found is not None and found["kind"] == "cameras"
    looks = [each for query in found["queries"] for each in query["layers"][-1]["cameras"]]
    assert looks and all(0 < sum(each["weights"]) <= 1 for each in looks)
