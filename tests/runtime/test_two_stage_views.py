"""Test-time augmentation of two stages and of masks, against `aug_test` of MMDetection 2.28."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cupola.errors import InputError
from cupola.models.rcnn.views import View, merged_proposals, predict_views
from cupola.registry import build
from cupola.runtime.predictors.augmented import augmented
from cupola.runtime.predictors.detection import make
from cupola.runtime.published import bundle_config
from cupola.structures.boxes import pairwise_iou
from models.rcnn.rcnn_families import FAMILIES
from models.rcnn.rcnn_small import model

EXTRACTOR = {
    "type": "SingleRoIExtractor",
    "roi_layer": {"type": "RoIAlign", "output_size": 7, "sampling_ratio": 0},
    "out_channels": 8,
    "featmap_strides": [8, 16],
}
BOX_HEAD = {
    "type": "Shared2FCBBoxHead",
    "in_channels": 8,
    "fc_out_channels": 16,
    "roi_feat_size": 7,
    "num_classes": 3,
    "bbox_coder": {"type": "DeltaXYWHBBoxCoder", "target_stds": [0.1, 0.1, 0.2, 0.2]},
    "reg_class_agnostic": False,
}
MASK_HEAD = {"type": "FCNMaskHead", "num_convs": 1, "in_channels": 8, "conv_out_channels": 8,
             "num_classes": 3}  # fmt: skip
RPN = {
    "type": "RPNHead",
    "in_channels": 8,
    "feat_channels": 8,
    "anchor_generator": {
        "type": "AnchorGenerator", "scales": [4], "ratios": [0.5, 1.0, 2.0], "strides": [8, 16]},
    "bbox_coder": {"type": "DeltaXYWHBBoxCoder"},
}  # fmt: skip
RCNN = {"score_thr": 0.05, "nms": {"type": "nms", "iou_threshold": 0.5}, "max_per_img": 9,
        "mask_thr_binary": 0.5}  # fmt: skip
TEST = {"rpn": {"nms_pre": 60, "max_per_img": 30, "nms": {"type": "nms", "iou_threshold": 0.7},
                "min_bbox_size": 0}, "rcnn": RCNN}  # fmt: skip
HEIGHT, WIDTH = 60, 90
SCALES = [(96, 64), (144, 96)]


def config(cascade: bool, masks: bool) -> dict[str, Any]:
    head: dict[str, Any] = {"type": "StandardRoIHead", "bbox_roi_extractor": EXTRACTOR,
                            "bbox_head": BOX_HEAD}  # fmt: skip
    if cascade:
        shared = {**BOX_HEAD, "reg_class_agnostic": True}
        head = {**head, "type": "CascadeRoIHead", "num_stages": 2,
                "stage_loss_weights": [1, 0.5], "bbox_head": [shared, shared]}  # fmt: skip
    if masks:
        larger = {**EXTRACTOR, "roi_layer": {**EXTRACTOR["roi_layer"], "output_size": 14}}  # type: ignore[dict-item]
        head |= {"mask_roi_extractor": larger, "mask_head": MASK_HEAD}
    return {
        "type": "CascadeRCNN" if cascade else "MaskRCNN" if masks else "FasterRCNN",
        "data_preprocessor": {"type": "DetDataPreprocessor", "mean": [9.0] * 3,
                              "std": [50.0] * 3, "pad_size_divisor": 32},
        "backbone": {"type": "ResNet", "depth": 18, "base_channels": 8, "out_indices": [1, 2]},
        "neck": {"type": "FPN", "in_channels": [16, 32], "out_channels": 8, "num_outs": 2},
        "rpn_head": RPN,
        "roi_head": head,
        "test_cfg": TEST,
    }  # fmt: skip


def made(cascade: bool, masks: bool, **tta: Any) -> Any:
    """A predictor of a config of 2.x with several scales and flips, or of 3.x with `tta`."""
    model = config(cascade, masks)
    steps = [{"type": "Resize", "keep_ratio": True}]
    flips = {"img_scale": SCALES, "flip": True, "flip_direction": ["horizontal", "vertical"]}
    several = [{"type": "MultiScaleFlipAug", **flips, "transforms": steps}]
    cfg = {"model": model, "data": {"test": {"pipeline": several}}}
    if tta:
        cfg = {"model": model, **tta}
    about = bundle_config(cfg, "toy")
    torch.manual_seed(0)
    module = build(about["model"]).eval()
    for name, value in module.named_parameters():
        if value.dim() > 1 and not name.startswith(("backbone", "neck")):
            torch.nn.init.normal_(value, std=0.4 if "cls" in name or "mask" in name else 0.05)
    return make("toy", "1", module, about, ("a", "b", "c"))


@pytest.fixture(scope="module")
def image() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)


# The original, written out for one image.


def mirrored(boxes: Tensor, size: tuple[int, int], flip: str | None) -> Tensor:
    """bbox_flip of boxes [..., 4] in an image of (height, width)."""
    found = boxes.clone()
    if flip == "horizontal":
        found[..., 0], found[..., 2] = size[1] - boxes[..., 2], size[1] - boxes[..., 0]
    if flip == "vertical":
        found[..., 1], found[..., 3] = size[0] - boxes[..., 3], size[0] - boxes[..., 1]
    return found


def suppressed(boxes: Tensor, scores: Tensor, threshold: float, most: int) -> list[int]:
    kept: list[int] = []
    for i in scores.argsort(descending=True, stable=True).tolist():
        if not kept or pairwise_iou(boxes[[i]], boxes[kept]).max() <= threshold:
            kept.append(i)
    return kept[:most]


def views_of(predictor: Any, image: Any) -> list[tuple[Any, ...]]:
    """Maps, size, factor [4] and flip of each view."""
    found = []
    for scale in SCALES:
        for flip in (None, "horizontal", "vertical"):
            resize = {"short": min(scale), "long": max(scale), "resample": "opencv"}
            one = make("one", "1", predictor.model, {"preprocess": {"resize": resize}}, ())
            pixels = one.sample(image).pixels
            size = (int(pixels.shape[1]), int(pixels.shape[2]))
            axis = {None: [], "horizontal": [2], "vertical": [1]}[flip]
            padded = F.pad(pixels.flip(axis), (0, -size[1] % 32, 0, -size[0] % 32))
            maps = predictor.model.maps(padded[None])
            factor = torch.tensor([size[1] / WIDTH, size[0] / HEIGHT] * 2)
            found.append((maps, size, factor, flip))
    return found


def merged(model: Any, views: list[tuple[Any, ...]]) -> Tensor:
    boxes, scores = [], []
    for maps, size, factor, flip in views:
        (found,) = model.rpn_head.propose(model.rpn_head(maps), [size], TEST["rpn"])
        boxes.append(mirrored(found.boxes, size, flip) / factor)
        scores.append(found.scores)
    joined, score = torch.cat(boxes), torch.cat(scores)
    return joined[suppressed(joined, score, 0.7, 30)]


def rois(boxes: Tensor) -> Tensor:
    return torch.cat((torch.zeros(len(boxes), 1), boxes), 1)


def second_stage(model: Any, maps: Any, boxes: Tensor, size: Any) -> tuple[Tensor, Tensor]:
    """Scores [P, C] and boxes [P, C or 1, 4]: get_bboxes without NMS."""
    head = model.roi_head
    stages = list(head.bbox_head) if hasattr(head, "num_stages") else [head.bbox_head]
    sums = torch.zeros(len(boxes), 4)
    for number, stage in enumerate(stages):
        extractor = head.bbox_roi_extractor
        extractor = extractor[number] if len(stages) > 1 else extractor
        logits, deltas = stage(extractor(maps, rois(boxes)))
        sums += logits
        parts = deltas.view(len(boxes), -1, 4)
        decoded = stage.bbox_coder.decode(boxes[:, None].expand_as(parts), parts, size)
        if number < len(stages) - 1:
            boxes = decoded[:, 0]
    return (sums / len(stages)).softmax(1)[:, :-1], decoded


def masks_of(model: Any, maps: Any, boxes: Tensor, labels: Tensor) -> Tensor:
    """The probabilities of masks, [N, 28, 28]."""
    head = model.roi_head
    if not hasattr(head, "num_stages"):
        parts = [(head.mask_head, head.mask_roi_extractor)]
    else:
        parts = list(zip(head.mask_head, head.mask_roi_extractor, strict=True))
    every = [mask_head(extractor(maps, rois(boxes))).sigmoid() for mask_head, extractor in parts]
    return torch.stack(every).mean(0)[torch.arange(len(boxes)), labels]


def pasted(mask: Tensor, box: Tensor) -> Tensor:
    """The mask in the image: its grid is sampled at the centers of pixels."""
    x, y = torch.arange(WIDTH) + 0.5, torch.arange(HEIGHT) + 0.5
    u, v = (x - box[0]) / (box[2] - box[0]) * 2 - 1, (y - box[1]) / (box[3] - box[1]) * 2 - 1
    grid = torch.stack(torch.meshgrid(u, v, indexing="xy"), -1)[None]
    return F.grid_sample(mask[None, None], grid, align_corners=False)[0, 0] >= 0.5


@pytest.mark.parametrize(
    ("cascade", "masks"), [(False, False), (False, True), (True, False), (True, True)]
)
@torch.no_grad()
def test_views_share_proposals_and_are_averaged(cascade: bool, masks: bool, image: Any) -> None:
    predictor = made(cascade, masks)
    model, views = predictor.model, views_of(predictor, image)
    proposals = merged(model, views)
    scores, boxes = [], []
    for maps, size, factor, flip in views:
        moved = mirrored(proposals * factor, size, flip)
        score, box = second_stage(model, maps, moved, size)
        scores.append(score)
        boxes.append(mirrored(box, size, flip) / factor)
    score, box = torch.stack(scores).mean(0), torch.stack(boxes).mean(0).expand(-1, 3, 4)
    rows = []
    for label in range(3):
        over = (score[:, label] > RCNN["score_thr"]).nonzero()[:, 0]
        kept = over[suppressed(box[over, label], score[over, label], 0.5, 999)]
        rows += [(score[i, label], label, box[i, label]) for i in kept.tolist()]
    rows = sorted(rows, key=lambda row: -float(row[0]))[:9]
    found = augmented(predictor)(image, threshold=0.0)
    assert len(rows) > 4 and found.names == ("a", "b", "c")
    assert found.labels.tolist() == [row[1] for row in rows]
    torch.testing.assert_close(found.scores, torch.stack([row[0] for row in rows]))
    expected = torch.stack([row[2] for row in rows])
    torch.testing.assert_close(found.boxes, expected, rtol=1e-4, atol=1e-3)
    if not masks:
        assert found.masks is None
        return
    seen = []
    for maps, size, factor, flip in views:
        mask = masks_of(model, maps, mirrored(expected * factor, size, flip), found.labels)
        seen.append(mask.flip({None: [], "horizontal": [2], "vertical": [1]}[flip]))
    for mask, each, box in zip(torch.stack(seen).mean(0), found.masks, expected, strict=True):
        assert (pasted(mask, box) != each).float().mean() < 2e-3
    assert 0 < found.masks.float().mean() < 1


def test_masks_of_version_3_belong_to_the_merged_boxes(image: Any) -> None:
    """DetTTAModel merges boxes; masks are those of all views in the merged boxes."""
    load = {"type": "LoadImageFromFile"}
    flips = [{"type": "RandomFlip", "prob": prob} for prob in (1.0, 0.0)]
    resizes = [{"type": "Resize", "scale": SCALES[0], "keep_ratio": True}]
    tta = {"type": "TestTimeAug", "transforms": [resizes, flips]}
    merging = {"nms": {"type": "nms", "iou_threshold": 0.4}, "max_per_img": 5}
    cfg = {"tta_model": {"tta_cfg": merging}, "tta_pipeline": [load, tta],
           "test_pipeline": [load, *resizes]}  # fmt: skip
    with_masks, boxes_alone = augmented(made(False, True, **cfg)), made(False, True, **cfg)
    boxes_alone.model.roi_head.mask_head = None
    found, plain = with_masks(image, 0.0), augmented(boxes_alone)(image, threshold=0.0)
    assert len(found) == 5 and found.masks.shape == (5, HEIGHT, WIDTH)
    torch.testing.assert_close(found.boxes, plain.boxes, rtol=1e-4, atol=1e-3)
    mirror = with_masks(np.ascontiguousarray(image[:, ::-1]), 0.0)
    assert (mirror.masks.flip(2) != found.masks).float().mean() < 0.01
    assert len(with_masks([image, image[:50]], threshold=0.0)) == 2


def test_nothing_found(image: Any) -> None:
    predictor = made(False, True)
    predictor.model.roi_head.test_cfg = {**RCNN, "score_thr": 1.1}
    found = augmented(predictor)(image, threshold=0.0)
    assert len(found) == 0 and found.masks.shape == (0, HEIGHT, WIDTH)


# As detectors of 2.x: whose boxes of one view are those of the second stage for its proposals.
SECOND = {
    "htc": model(masks=True, cascade=True, htc=True),
    "scoring": model(masks=True, scoring=True),
    **{name: FAMILIES[name][0] for name in ("scnet", "point rend", "groie", "sabl cascade")},
    **{name: FAMILIES[name][0] for name in ("guided", "double", "trident", "points")},
}


@pytest.mark.parametrize("family", SECOND)
@torch.no_grad()
def test_one_view_of_other_heads(family: str) -> None:
    """It has the boxes and masks of a prediction from the same proposals."""
    torch.manual_seed(0)
    module = build(SECOND[family]).eval()
    pixels, size = torch.randn(1, 3, 64, 96), (64, 90)
    views = [View(pixels, size, size, (1.0, 1.0))]
    output = module.rpn_output(module.maps(pixels), [size])
    proposed = module.rpn_head.propose(output, [size], module.rpn_head.test_cfg)
    proposals = merged_proposals(module.rpn_head, views, proposed)
    batch = {"pixels": pixels, "image_sizes": [size], "proposals": [proposals.boxes]}
    (expected,), found = module.predict(batch), predict_views(module, views, size)
    assert len(found) > 3
    if family == "scoring":  # it scores boxes alone
        order = [int((expected.boxes - box).abs().sum(1).argmin()) for box in found.boxes]
        assert torch.equal(expected.boxes[order], found.boxes)
    else:
        torch.testing.assert_close(found.boxes, expected.boxes)
        torch.testing.assert_close(found.scores, expected.scores)
        assert (found.masks is None) == (expected.masks is None)
        assert found.masks is None or torch.equal(found.masks, expected.masks)


@torch.no_grad()
def test_views_of_a_grid_head_are_the_regions() -> None:
    """As in the original, which averages what the box head says, and boxes without their grids."""
    torch.manual_seed(0)
    module = build(FAMILIES["grid"][0]).eval()
    views = [View(torch.randn(1, 3, 64, 96), (64, 96), (64, 96), (1.0, 1.0))]
    output = module.rpn_head(module.maps(views[0].pixels))
    proposed = module.rpn_head.propose(output, [(64, 96)], module.rpn_head.test_cfg)
    regions = merged_proposals(module.rpn_head, views, proposed).boxes
    found = predict_views(module, views, (64, 96))
    assert len(found) and all((regions - box).abs().sum(1).min() < 1e-3 for box in found.boxes)


@torch.no_grad()
def test_proposals_of_an_rpn_in_all_views(image: Any) -> None:
    parts = {key: value for key, value in config(False, False).items() if key != "roi_head"}
    several = {"img_scale": SCALES, "flip": True, "flip_direction": ["horizontal", "vertical"]}
    steps = [{"type": "MultiScaleFlipAug", **several, "transforms": [{"type": "Resize"}]}]
    model = {**parts, "type": "RPN", "test_cfg": {"rpn": TEST["rpn"]}}
    about = bundle_config({"model": model, "data": {"test": {"pipeline": steps}}}, "toy")
    torch.manual_seed(0)
    module = build(about["model"]).eval()
    module.rpn_head = module.head  # as in two stages
    predictor = make("toy", "1", module, about, ("object",))
    found = augmented(predictor)(image, threshold=0.0)
    expected = merged(module, views_of(predictor, image))
    torch.testing.assert_close(found.boxes, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("family", ["sparse", "queryinst", "cascade rpn"])
def test_what_version_2_does_not_augment_is_refused(family: str) -> None:
    model = FAMILIES[family][0]
    steps = [{"type": "MultiScaleFlipAug", "img_scale": SCALES, "flip": True, "transforms": []}]
    about = bundle_config({"model": model, "data": {"test": {"pipeline": steps}}}, "toy")
    predictor = make("toy", "1", build(about["model"]).eval(), about, ("a", "b", "c"))
    masks = "has no test-time augmentation of SparseRCNN with masks; it is included for masks in"
    boxes = "MMDetection 2.x has no test-time augmentation of .*RPNHead: remove flip and further"
    with pytest.raises(InputError, match=masks if family == "queryinst" else boxes):
        augmented(predictor)
    if family == "cascade rpn":
        parts = {key: model[key] for key in ("backbone", "neck", "rpn_head", "test_cfg")}
        about["model"] = {**about["model"], **parts, "type": "RPN"}
        about["model"] = {k: v for k, v in about["model"].items() if k != "roi_head"}
        predictor = make("toy", "1", build(about["model"]).eval(), about, ("object",))
        with pytest.raises(InputError, match="augmentation of RPN with CascadeRPNHead: remove"):
            augmented(predictor)
