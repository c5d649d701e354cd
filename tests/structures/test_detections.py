"""Detections draw themselves, convert to other layouts, and show themselves in notebooks."""

import io
import sys
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops
from pycocotools.coco import COCO

from cupola.errors import InputError
from cupola.structures import Detections
from cupola.structures.drawing import caption_place, class_color, draw_boxes

PIXELS = np.full((60, 100, 3), 40, np.uint8)


def detections(**changes: Any) -> Detections:
    values: dict[str, Any] = {
        "boxes": torch.tensor([[10.0, 20.0, 50.0, 50.0], [80.0, 0.0, 99.0, 30.0]]),
        "scores": torch.tensor([0.9, 0.25]),
        "labels": torch.tensor([1, 0]),
        "names": ("<b>cat", "dog"),
        "image": lambda: PIXELS,
    }
    return Detections(**{**values, **changes})


def test_drawing_needs_an_image() -> None:
    drawn = detections().draw()
    assert isinstance(drawn, Image.Image) and drawn.size == (100, 60)
    assert drawn.getpixel((50, 40)) == class_color(1)
    bare = detections(image=None)
    assert ImageChops.difference(bare.draw(PIXELS), drawn).getbbox() is None
    with pytest.raises(InputError, match="do not know their image"):
        bare.draw()
    assert detections().above(0.5).draw().size == (100, 60)
    assert (PIXELS == 40).all()


CORNERS = [(0, 0), (95, 0), (99, 59), (-30, -30), (300, 300), (40, 5)]


@pytest.mark.parametrize("corner", CORNERS)
@pytest.mark.parametrize("caption", ["cat 0.90", "a much longer name than fits in the image 0.90"])
def test_captions_stay_inside(corner: tuple[int, int], caption: str) -> None:
    """The caption's background has both of its vertical edges in the image."""
    box = (*corner, corner[0] + 2, corner[1] + 2)
    drawn = np.asarray(draw_boxes(PIXELS, [box], [0], [caption]))
    rows, columns = np.nonzero((drawn == class_color(0)).all(-1))
    with_text = drawn[..., 1] > class_color(0)[1] + 40  # white, blended at the letters' edges
    assert with_text.any()
    text_rows, text_columns = np.nonzero(with_text)
    assert columns.min() < text_columns.min() and text_columns.max() < columns.max()
    assert rows.min() <= text_rows.min() and text_rows.max() <= rows.max()


def test_the_place_of_a_caption() -> None:
    text = (0, -10, 30, 2)
    assert caption_place(text, (20, 40), (100, 60)) == (22, 40)
    assert caption_place(text, (90, 40), (100, 60))[0] + 30 < 100
    assert caption_place(text, (20, 3), (100, 60)) == (22, 10)
    assert caption_place(text, (-5, 99), (100, 60)) == (2, 57)


def test_coco_results_are_read_by_pycocotools() -> None:
    categories = [{"id": 18, "name": "dog"}, {"id": 17, "name": "<b>cat"}]
    results = detections().to_coco(5, categories)
    assert results[0] == {
        "image_id": 5,
        "category_id": 18,
        "bbox": [10, 20, 40, 30],
        "score": pytest.approx(0.9),
    }
    assert detections().to_coco(5, {"dog": 18, "<b>cat": 17}) == results
    assert detections().to_coco(5, [17, 18]) == results
    truth = COCO()
    truth.dataset = {"images": [{"id": 5}], "annotations": [], "categories": categories, "info": {}}
    truth.createIndex()
    assert truth.loadRes(results).getAnnIds(catIds=[17]) == [2]
    with pytest.raises(KeyError, match="cat"):
        detections().to_coco(5, {"dog": 18})


def test_torchvision_s_layout() -> None:
    found = detections().to_torchvision()
    assert set(found) == {"boxes", "labels", "scores"}
    assert found["boxes"].shape == (2, 4) and found["labels"].dtype == torch.int64


@dataclass
class SupervisionDetections:
    """The fields of supervision 0.31.2's Detections, and what it requires of them.

    The package itself would add 105 MB of video codecs to the test environment. Source:
    supervision/detection/core.py and validators.
    """

    xyxy: Any
    mask: Any = None
    confidence: Any = None
    class_id: Any = None
    tracker_id: Any = None
    data: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = len(self.xyxy)
        assert self.xyxy.shape == (count, 4) and self.xyxy.dtype == np.float32
        assert self.confidence.shape == (count,) and self.confidence.dtype == np.float32
        assert self.class_id.shape == (count,) and self.class_id.dtype == int
        if self.mask is not None:
            assert self.mask.ndim == 3 and len(self.mask) == count and self.mask.dtype == bool
        for values in self.data.values():
            assert isinstance(values, np.ndarray) and values.shape == (count,)


def test_supervision_s_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    package = SimpleNamespace(Detections=SupervisionDetections)
    monkeypatch.setitem(sys.modules, "supervision", package)
    found = detections().to_supervision()
    assert found.xyxy.tolist() == [[10, 20, 50, 50], [80, 0, 99, 30]]
    assert found.confidence.tolist() == pytest.approx([0.9, 0.25])
    assert found.class_id.tolist() == [1, 0] and found.mask is None and found.tracker_id is None
    assert list(found.data) == ["class_name"] and found.metadata == {}
    assert found.data["class_name"].tolist() == ["dog", "<b>cat"]
    empty = detections().above(1.0).to_supervision()
    assert empty.xyxy.shape == (0, 4) and empty.data["class_name"].shape == (0,)
    masked = detections(masks=torch.ones(2, 60, 100, dtype=torch.bool)).to_supervision()
    assert masked.mask.shape == (2, 60, 100)


def test_supervision_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(InputError, match="pip install supervision"):
        detections().to_supervision()


def test_a_notebook_shows_the_drawing_and_a_table() -> None:
    png = detections()._repr_png_()
    assert png is not None and Image.open(io.BytesIO(png)).size == (100, 60)
    shown = detections()._repr_html_()
    assert 'src="data:image/png;base64,' in shown
    assert "<td>&lt;b&gt;cat</td><td>0.250</td><td>80</td>" in shown
    bare = detections(image=None)
    assert bare._repr_png_() is None and "<img" not in bare._repr_html_()
    many = Detections(torch.rand(70, 4), torch.rand(70), torch.zeros(70, dtype=torch.int64))
    assert "and 20 more" in many._repr_html_()
    large = detections(image=lambda: np.zeros((900, 1600, 3), np.uint8))._repr_png_()
    assert large is not None and Image.open(io.BytesIO(large)).size == (800, 450)
