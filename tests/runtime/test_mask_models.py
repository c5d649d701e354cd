"""Mask2Former and MaskFormer through the predictor, the server's tensors, export and commands."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cupola.compat.mmdet.results import DetDataSample
from cupola.errors import InputError
from cupola.inspect.image_view import view_of_image
from cupola.registry import build
from cupola.runtime.export import export
from cupola.runtime.load import load_predictor
from cupola.runtime.predictors.detection import DetectionPredictor, make
from cupola.runtime.tasks import find
from cupola.structures.masks import decode_rle, encode_rle
from golden import golden

CASES = golden("masks_mmdet").json["cases"]


def predictor(name: str, **settings: Any) -> DetectionPredictor:
    torch.manual_seed(0)
    cfg = copy.deepcopy(CASES[name]["model"])
    cfg["test_cfg"] |= {"object_mask_thr": 0.0, "iou_thr": 0.0}
    model = build(cfg).eval()
    labels = tuple(f"c{i}" for i in range(8))
    config = {"preprocess": {"resize": {"short": 64, "long": 96}}, **settings}
    return make(name, "1", model, config, labels)


@pytest.fixture(scope="module")
def image() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8)


@pytest.fixture(scope="module", params=["maskformer_resnet", "mask2former_resnet_panoptic"])
def model(request: pytest.FixtureRequest) -> Iterator[DetectionPredictor]:
    yield predictor(request.param)


def test_masks_and_segments_are_in_pixels_of_the_image(model, image) -> None:
    found = model(image, threshold=0.0)
    assert len(found) and found.masks.shape == (len(found), 50, 70)
    assert found.panoptic.ids.shape == (50, 70)
    assert found.names[0] == "c0" and found.panoptic.segments
    row = found.to_list()[0]
    assert np.array_equal(decode_rle(row["mask"]), found.masks[0].numpy())
    best = found.above(float(found.scores[0]))
    assert best.masks.shape[0] == len(best) < len(found) + 1
    assert found.to_coco(3, list(range(8)))[0]["segmentation"] == row["mask"]
    assert found.to_torchvision()["masks"].shape == (len(found), 1, 50, 70)


def test_masks_are_drawn(model, image) -> None:
    found = model(image, threshold=0.0)
    drawn = np.asarray(found.draw(image)).astype(int)
    mask = found.masks[-1].numpy()
    assert drawn.shape == image.shape
    assert (np.abs(drawn - image.astype(int)).sum(-1) > 0)[mask].mean() > 0.9


def test_tensors_of_the_server(model, image) -> None:
    samples = model.decode({"pixels": np.stack([image, image[::-1]])}, {})
    arrays = model.encode(model.run(samples), {"threshold": 0.0})
    assert {spec.name for spec in model.outputs} == set(arrays)
    assert len(arrays["masks"]) == len(arrays["scores"]) == len(arrays["image_index"])
    assert decode_rle(json.loads(arrays["masks"][0])).shape == (50, 70)
    segments = [json.loads(each) for each in arrays["segments"]]
    assert {each["image"] for each in segments} == {0, 1}
    first = segments[0]
    assert decode_rle(first["mask"]).sum() == first["area"] > 0
    assert first["name"] == f"c{first['label']}" and first["is_thing"] == (first["label"] < 5)


def test_images_are_padded_as_in_training(model, image) -> None:
    """To a multiple of 32, as pad_size_divisor of the config says; the padding is masked."""
    seen = {}
    forward = model.model.forward
    model.model.forward = lambda pixels, mask, last_only=False: (
        seen.update(pixels=pixels, mask=mask) or forward(pixels, mask, last_only)
    )
    try:
        model(image)
    finally:
        model.model.forward = forward
    assert seen["pixels"].shape == (1, 3, 64, 96)
    assert int((~seen["mask"]).sum()) == 64 * 90


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["maskformer_resnet", "mask2former_resnet_panoptic"])
def test_exported_programs_take_images_of_any_size(name: str, tmp_path: Path) -> None:
    program = find("detection").program(predictor(name), None)
    assert program.shape(0) == [1, 3, "height", "width"]
    assert program.shape(1) == [1, "height", "width"]
    export(program, tmp_path / "model.pt2", "torch")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    for height, width in ((64, 96), (75, 130), (160, 224)):
        pixels = torch.randn(1, 3, height, width)
        padding = torch.zeros(1, height, width, dtype=torch.bool)
        padding[:, :, 3 * width // 4 :] = True
        with torch.no_grad():
            pairs = zip(loaded(pixels, padding), program.module(pixels, padding), strict=True)
            for found, expected in pairs:
                torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_exports_with_swin_have_the_traced_size() -> None:
    program = find("detection").program(predictor("maskformer_swin"), (64, 96))
    assert program.shape(0) == [1, 3, 64, 96]
    program = find("detection").program(predictor("maskformer_resnet"), (64, 96))
    assert program.shape(0) == [1, 3, "height", "width"]
    assert program.fixed().shape(0) == [1, 3, 64, 96]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["maskformer_swin", "mask2former_resnet_panoptic"])
def test_onnx_is_equal_and_has_no_grid_sample(name: str, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    model = predictor(name)
    program = find("detection").program(model, (64, 96))
    export(program, tmp_path / "model.onnx")
    operators = {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node}
    assert "GridSample" not in operators
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    names = {each.name for each in session.get_inputs()}
    for height, width in ((64, 96), (75, 130), (160, 224)) if program.dynamic else ((64, 96),):
        pixels = torch.randn(1, 3, height, width)
        padding = torch.zeros(1, height, width, dtype=torch.bool)
        padding[:, :, 3 * width // 4 :] = True
        given = {"pixels": pixels.numpy(), "padding_mask": padding.numpy()}
        given = {key: value for key, value in given.items() if key in names}
        results = session.run(["logits", "masks"], given)
        with torch.no_grad():
            expected = program.module(pixels, padding)
        for found, tensor in zip(results, expected, strict=True):
            close = 1e-4 * max(1, float(tensor.abs().max()))
            assert np.abs(found - tensor.numpy()).max() < close


def test_explain_shows_the_masks_of_queries(model, image) -> None:
    view = view_of_image(model.model, image, model.labels, top=3)
    assert len(view["queries"]) == 3
    query = view["queries"][0]
    assert query["label"].startswith("c") and len(query["box"]) == 4
    assert sum(map(sum, query["attention"])) == pytest.approx(1, abs=0.1)


def test_config_and_checkpoint_load_and_predict(tmp_path: Path, image) -> None:
    cfg = CASES["mask2former_swin"]["model"]
    (tmp_path / "tiny.py").write_text(f"model = {cfg!r}\n")
    torch.save({"state_dict": build(cfg).state_dict()}, tmp_path / "tiny.pth")
    loaded = load_predictor(tmp_path / "tiny.py", tmp_path / "tiny.pth")
    found = loaded(image, threshold=0.0)
    assert found.panoptic is None and len(found.masks) == len(found) > 0


def write_coco(folder: Path, image: np.ndarray[Any, Any]) -> None:
    (folder / "images").mkdir(parents=True)
    Image.fromarray(image).save(folder / "images" / "a.png")
    mask = np.zeros(image.shape[:2], bool)
    mask[10:30, 5:40] = True
    entry = {
        "id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 10, 35, 20], "area": 700,
        "iscrowd": 0, "segmentation": encode_rle(mask),
    }  # fmt: skip
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 70, "height": 50}],
        "annotations": [entry],
        "categories": [{"id": 1, "name": "c1"}],
    }
    (folder / "instances.json").write_text(json.dumps(content))
    panoptic = np.zeros((*mask.shape, 3), np.uint8)
    panoptic[..., 0] = np.where(mask, 7, 9)
    (folder / "panoptic").mkdir()
    Image.fromarray(panoptic).save(folder / "panoptic" / "a.png")
    segments = [
        {"id": 7, "category_id": 1, "area": 700, "iscrowd": 0},
        {"id": 9, "category_id": 2, "area": 2800, "iscrowd": 0},
    ]
    categories = [{"id": 1, "name": "c1", "isthing": 1}, {"id": 2, "name": "c6", "isthing": 0}]
    annotation = {"image_id": 1, "file_name": "a.png", "segments_info": segments}
    content = {**content, "annotations": [annotation], "categories": categories}
    (folder / "panoptic.json").write_text(json.dumps(content))


def test_mask_ap_and_panoptic_quality_of_a_folder(model, image, tmp_path: Path) -> None:
    write_coco(tmp_path / "data", image)
    task = find("detection")
    options = {"annotations": "instances.json", "images": "images"}
    scores = task.evaluate(model, tmp_path / "data", options)
    assert set(scores) >= {"AP", "mask_AP", "mask_AP50"}
    scores = task.evaluate(model, tmp_path / "data", {**options, "annotations": "panoptic.json"})
    assert set(scores) >= {"PQ", "SQ", "RQ", "PQ_th", "PQ_st"}
    assert 0 <= scores["PQ"] <= 1


def test_results_in_the_layout_of_mmdetection(model, image) -> None:
    found = model(image, threshold=0.0)
    sample = DetDataSample.of(found, {})
    assert sample.pred_instances[:1].numpy().masks.shape == (1, 50, 70)
    assert "masks" in sample.pred_instances
    assert torch.equal(sample.pred_panoptic_seg.sem_seg[0], found.panoptic.ids)


def test_threshold_is_checked(model, image) -> None:
    with pytest.raises(InputError, match="threshold"):
        model(image, threshold=2)
