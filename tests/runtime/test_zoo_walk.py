"""Every family of published detectors: bundle, prediction, the server's tensors, explain, evaluate.

One config of each, with random weights, on small images. `tests/models` compares the numbers with
those of MMDetection; here is what surrounds the models.
"""

import gc
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cupola.errors import InputError
from cupola.inspect import describe
from cupola.runtime.export import export
from cupola.runtime.predictors.detection import DetectionPredictor
from cupola.runtime.tasks import find
from cupola.structures import Detections
from cupola.structures.masks import decode_rle, encode_rle
from zoo_walk import small_predictor

FAST = (
    "3.3.0/yolox/yolox_nano_8xb8-300e_coco.py",
    "3.3.0/rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py",
)
FAMILIES = (
    "3.3.0/faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py",
    "3.3.0/faster_rcnn/faster-rcnn_r50_fpn_fcos-rpn_1x_coco.py",
    "3.3.0/faster_rcnn/faster-rcnn_r50_fpn_soft-nms_1x_coco.py",
    "2.28.2/faster_rcnn/faster_rcnn_r50_caffe_dc5_1x_coco.py",
    "3.3.0/mask_rcnn/mask-rcnn_r50-caffe-c4_1x_coco.py",
    "2.28.2/cascade_rcnn/cascade_mask_rcnn_r50_fpn_1x_coco.py",
    "3.3.0/htc/htc_r50_fpn_1x_coco.py",
    "3.3.0/scnet/scnet_r50_fpn_1x_coco.py",
    "3.3.0/ms_rcnn/ms-rcnn_r50-caffe_fpn_1x_coco.py",
    "3.3.0/grid_rcnn/grid-rcnn_r50_fpn_gn-head_1x_coco.py",
    "3.3.0/detectors/detectors_htc-r50_1x_coco.py",
    "3.3.0/queryinst/queryinst_r50_fpn_1x_coco.py",
    "3.3.0/sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py",
    "3.3.0/double_heads/dh-faster-rcnn_r50_fpn_1x_coco.py",
    "3.3.0/groie/mask-rcnn_r50_fpn_groie_1x_coco.py",
    "3.3.0/lvis/mask-rcnn_r50_fpn_sample1e-3_ms-1x_lvis-v1.py",
    "3.3.0/seesaw_loss/mask-rcnn_r50_fpn_seesaw-loss-normed-mask_random-ms-2x_lvis-v1.py",
    "3.3.0/sabl/sabl-cascade-rcnn_r50_fpn_1x_coco.py",
    "3.3.0/guided_anchoring/ga-faster-rcnn_r50-caffe_fpn_1x_coco.py",
    "3.3.0/panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py",
    "2.28.2/panoptic_fpn/panoptic_fpn_r50_fpn_1x_coco.py",
    "3.3.0/rpn/rpn_r50-caffe-c4_1x_coco.py",
    "2.28.2/guided_anchoring/ga_rpn_r50_caffe_fpn_1x_coco.py",
    "3.3.0/retinanet/retinanet_r18_fpn_1x_coco.py",
    "3.3.0/sabl/sabl-retinanet_r50_fpn_1x_coco.py",
    "3.3.0/guided_anchoring/ga-retinanet_r50-caffe_fpn_1x_coco.py",
    "3.3.0/free_anchor/freeanchor_r50_fpn_1x_coco.py",
    "3.3.0/reppoints/reppoints-moment_r50_fpn_1x_coco.py",
    "3.3.0/foveabox/fovea_r50_fpn_gn-head-align_4xb4-2x_coco.py",
    "3.3.0/gfl/gfl_r50_fpn_1x_coco.py",
    "2.28.2/atss/atss_r50_fpn_1x_coco.py",
    "3.3.0/paa/paa_r50_fpn_1.5x_coco.py",
    "3.3.0/tood/tood_r50_fpn_1x_coco.py",
    "3.3.0/vfnet/vfnet_r50_fpn_1x_coco.py",
    "2.28.2/fcos/fcos_center_r50_caffe_fpn_gn-head_1x_coco.py",
    "3.3.0/yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py",
    "3.3.0/yolof/yolof_r50-c5_8xb8-1x_coco.py",
    "3.3.0/rtmdet/rtmdet_tiny_8xb32-300e_coco.py",
    "3.3.0/centernet/centernet-update_r18_fpn_8xb8-amp-lsj-200e_coco.py",
    "3.3.0/solo/decoupled-solo-light_r50_fpn_3x_coco.py",
    "3.3.0/solo/solo_r18_fpn_8xb8-lsj-200e_coco.py",
    "3.3.0/solov2/solov2-light_r18_fpn_ms-3x_coco.py",
    "2.28.2/mask2former/mask2former_r50_lsj_8x2_50e_coco.py",
    "3.3.0/maskformer/maskformer_r50_ms-16xb1-75e_coco.py",
    "3.3.0/detr/detr_r18_8xb2-500e_coco.py",
    "3.3.0/dab_detr/dab-detr_r50_8xb2-50e_coco.py",
    "2.28.2/deformable_detr/deformable_detr_r50_16x2_50e_coco.py",
)
# Models whose boxes come from learned queries or sides, which random weights may invert.
UNORDERED = ("queryinst", "sparse_rcnn", "sabl-cascade", "centernet_r18")


@pytest.fixture(
    scope="module", params=[*FAST, *(pytest.param(c, marks=pytest.mark.slow) for c in FAMILIES)]
)
def predictor(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DetectionPredictor]:
    made = small_predictor(request.param, tmp_path_factory.mktemp("zoo") / "small")
    made.version = request.param
    yield made
    del made
    torch._dynamo.reset()  # an export keeps its model
    gc.collect()


def images() -> list[np.ndarray[Any, Any]]:
    random = np.random.default_rng(0)
    return [random.integers(0, 255, (*size, 3), np.uint8) for size in ((60, 75), (45, 100))]


def check(found: Detections, size: tuple[int, int], predictor: DetectionPredictor) -> None:
    assert found.boxes.isfinite().all() and (found.scores.diff() <= 1e-6).all()
    assert ((found.scores >= 0) & (found.scores <= 1)).all() and (found.labels >= 0).all()
    if not any(name in predictor.version for name in UNORDERED):
        assert (found.boxes[:, 2:] >= found.boxes[:, :2] - 1e-3).all()
    assert (found.masks is not None) == predictor.masks
    if found.masks is not None:
        assert found.masks.shape == (len(found), *size) and found.masks.dtype == torch.bool


def test_images_of_several_sizes_in_one_request(predictor: DetectionPredictor) -> None:
    files = []
    for image in images():
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "PNG")
        files.append(stream.getvalue())
    samples = predictor.decode({"image": np.array(files, dtype=object)}, {})
    answers = predictor.run(samples)
    for found, image in zip(answers, images(), strict=True):
        check(found, image.shape[:2], predictor)
        alone = predictor.run([predictor.sample(image)])[0]
        assert torch.equal(alone.boxes, found.boxes)
        json.dumps(found.to_list())
        found.draw(image)
    arrays = predictor.encode(answers, {"threshold": 0.0})
    assert {spec.name for spec in predictor.outputs} == set(arrays)
    assert len(arrays["boxes"]) == len(arrays["names"]) == sum(map(len, answers))
    for part in (
        *arrays.get("masks", ()),
        *(json.dumps(json.loads(s)["mask"]) for s in arrays.get("segments", ())),
    ):
        assert decode_rle(json.loads(part)).shape in [image.shape[:2] for image in images()]
    assert (answers[0].panoptic is None) or len(answers[0].panoptic.segments) > 0


def test_a_batch_of_several_sizes(predictor: DetectionPredictor) -> None:
    """Nothing of the other images of a batch reaches an image's answer, whatever their sizes.

    The padding does, as in the original: so each image alone is padded as far as in the batch.
    """
    samples = [predictor.sample(image) for image in images()]
    shapes = [tuple(sample.pixels.shape[1:]) for sample in samples]
    size = predictor.padded_size((max(h for h, _ in shapes), max(w for _, w in shapes)))
    with torch.inference_mode():
        together = predictor.model.predict(padded(predictor, samples, size))
        alone = [predictor.model.predict(padded(predictor, [each], size))[0] for each in samples]
    for found, expected in zip(together, alone, strict=True):
        assert len(found) == len(expected)
        # boxes around masks move by a pixel where rounding decides one
        around = len(found) > 0 and not (expected.boxes % 1).any()
        far = 1.0 if around else 2e-2
        torch.testing.assert_close(found.boxes, expected.boxes, rtol=1e-3, atol=far)
        if found.masks is not None and expected.masks is not None and len(found):
            assert (found.masks != expected.masks).float().mean() < 2e-3
        torch.testing.assert_close(found.scores, expected.scores, rtol=1e-3, atol=1e-4)
        if found.panoptic is not None and expected.panoptic is not None:
            pairs = zip(found.panoptic.segments, expected.panoptic.segments, strict=True)
            assert all(a.label == b.label for a, b in pairs)


def padded(predictor: DetectionPredictor, samples: Any, size: tuple[int, int]) -> dict[str, Any]:
    """A batch of samples of any shapes at the left and the top of canvases of (height, width)."""
    pixels = torch.zeros(len(samples), 3, *size)
    mask = torch.ones(len(samples), *size, dtype=torch.bool)
    sizes = [(int(each.pixels.shape[1]), int(each.pixels.shape[2])) for each in samples]
    for index, (sample, (height, width)) in enumerate(zip(samples, sizes, strict=True)):
        pixels[index, :, :height, :width] = sample.pixels
        mask[index, :height, :width] = False
    originals = [sample.original for sample in samples]
    pairs = zip(sizes, originals, strict=True)
    return {
        "pixels": pixels,
        "padding_mask": mask,
        "image_sizes": sizes,
        "original_sizes": originals,
        "scale_factors": [(w / width, h / height) for (h, w), (height, width) in pairs],
        **predictor.further(samples),
    }


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1, 1), (8, 2000), (2000, 8)])
def test_odd_images(predictor: DetectionPredictor, size: tuple[int, int]) -> None:
    """A gray image of one pixel and long ones are answered, or refused in one sentence."""
    image = Image.fromarray(np.full(size, 90, np.uint8))
    try:
        check(predictor(image, threshold=0.0), size, predictor)
    except InputError as error:
        assert "too small" in str(error)


def test_explained(predictor: DetectionPredictor) -> None:
    side = 320 if "ssd" in predictor.version else 128
    root = describe(predictor.model, (3, side, side), run=True).root
    assert {"backbone", "data_preprocessor"} <= {each.path for each in root.children}


def test_evaluated(predictor: DetectionPredictor, tmp_path: Path) -> None:
    """What the model finds itself, as the truth, has an AP."""
    (tmp_path / "images").mkdir()
    labels = predictor.labels or tuple(str(i) for i in range(1300))
    about: dict[str, Any] = {"images": [], "annotations": []}
    about["categories"] = [{"id": i + 1, "name": name} for i, name in enumerate(labels)]
    for number, image in enumerate(images()):
        height, width = image.shape[:2]
        Image.fromarray(image).save(tmp_path / "images" / f"{number}.png")
        about["images"].append(
            {"id": number, "file_name": f"{number}.png", "height": height, "width": width}
        )
        found = predictor(image, threshold=0.0)
        for i in range(min(4, len(found))):
            left, top, right, bottom = found.boxes[i].tolist()
            width, height = right - left, bottom - top
            if min(width, height) < 1:  # random weights may make lines
                continue
            truth = {"bbox": [left, top, width, height], "area": width * height, "iscrowd": 0}
            if found.masks is not None:
                truth["segmentation"] = encode_rle(found.masks[i])
            truth |= {"id": len(about["annotations"]) + 1, "image_id": number}
            about["annotations"].append({**truth, "category_id": int(found.labels[i]) + 1})
    (tmp_path / "instances.json").write_text(json.dumps(about))
    options = {"annotations": "instances.json", "images": "images"}
    scores = find("detection").evaluate(predictor, tmp_path, options)
    assert (scores["AP"] > 0 or not about["annotations"]) and (
        "mask_AP" in scores
    ) == predictor.masks


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_exported(
    predictor: DetectionPredictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxruntime computes the same; what has no export says so."""
    import onnxruntime

    path = tmp_path / "small.onnx"
    program = find("detection").program(predictor, (96, 160))
    try:
        export(program, path)
    except InputError as error:
        assert "cannot be exported" in str(error)
        return
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    random = torch.Generator().manual_seed(1)
    example = (torch.randn(program.example[0].shape, generator=random), *program.example[1:])
    named = dict(zip(program.inputs, example, strict=True))
    feed = {each.name: named[each.name].numpy() for each in session.get_inputs()}
    with torch.no_grad():
        expected = program.module(*example)
        monkeypatch.setattr("cupola.models.solo.head.point_nms", lambda scores: scores)
        heat = program.module(*example)[0] if "/solo/" in predictor.version else None
    for found, each in zip(session.run(None, feed), expected, strict=True):
        if heat is not None:
            check_equal_peaks(torch.from_numpy(found), each, heat)
            heat = None  # masks have no peaks
        scale = max(1.0, each.abs().max().item())
        np.testing.assert_allclose(found, each.numpy(), rtol=0, atol=1e-3 * scale)


def check_equal_peaks(found: Tensor, expected: Tensor, heat: Tensor) -> None:
    """Where rounding decides which of neighbors is the peak, the expected score becomes the found.

    Scores and heat are [B, S, C], S all cells of SOLO's five grids, row by row; such a cell has the
    score of one beside it to a few units in the last place.
    """
    beside = {1, *(side + step for side in (40, 36, 24, 16, 12) for step in (-1, 0, 1))}
    for image, cell, label in ((found == 0) != (expected == 0)).nonzero().tolist():
        cells = [cell + sign * step for step in beside for sign in (-1, 1)]
        near = heat[image, [each for each in cells if 0 <= each < heat.shape[1]], label]
        assert (near - heat[image, cell, label]).abs().min() < 1e-6
        expected[image, cell, label] = found[image, cell, label]
