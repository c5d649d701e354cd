"""Fast R-CNN: proposals of a call, a request, a file and a data set."""

import json
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from cupola.cli.evaluate import app as evaluate_app
from cupola.cli.predict import app as predict_app
from cupola.config import Config
from cupola.errors import DataError, InputError
from cupola.files.proposals import read_proposals
from cupola.registry import build
from cupola.runtime.building import without_pretrained
from cupola.runtime.load import load_predictor
from cupola.runtime.predictors.proposal_detection import ProposalDetectionPredictor

MODEL: dict[str, Any] = {
    "type": "FastRCNN",
    "data_preprocessor": {
        "type": "DetDataPreprocessor", "mean": [9.0] * 3, "std": [50.0] * 3, "bgr_to_rgb": True,
        "pad_size_divisor": 32,
    },
    "backbone": {"type": "ResNet", "depth": 18, "base_channels": 8, "out_indices": [1, 2]},
    "neck": {"type": "FPN", "in_channels": [16, 32], "out_channels": 8, "num_outs": 2},
    "roi_head": {
        "type": "StandardRoIHead",
        "bbox_roi_extractor": {
            "type": "SingleRoIExtractor",
            "roi_layer": {"type": "RoIAlign", "output_size": 7, "sampling_ratio": 0},
            "out_channels": 8,
            "featmap_strides": [8, 16],
        },
        "bbox_head": {
            "type": "Shared2FCBBoxHead",
            "in_channels": 8,
            "fc_out_channels": 16,
            "roi_feat_size": 7,
            "num_classes": 3,
            "bbox_coder": {"type": "DeltaXYWHBBoxCoder", "target_stds": [0.1, 0.1, 0.2, 0.2]},
            "reg_class_agnostic": True,
        },
    },
    "test_cfg": {"rcnn": {
        "score_thr": 0.0, "nms": {"type": "nms", "iou_threshold": 0.5}, "max_per_img": 20}},
}  # fmt: skip
RESIZE = {"type": "Resize", "scale": (96, 64), "keep_ratio": True}
PIPELINE = [
    {"type": "LoadImageFromFile"},
    {"type": "LoadProposals", "num_max_proposals": None},
    {"type": "ProposalBroadcaster", "transforms": [RESIZE]},
    {"type": "LoadAnnotations", "with_bbox": True},
    {"type": "PackDetInputs"},
]
BOXES = np.float32([[2, 3, 30, 25], [20.5, 10, 47, 31], [-4, -2, 60, 40], [5, 5, 9, 9]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config with its checkpoint, a COCO folder of two images, and files of their proposals."""
    root = tmp_path_factory.mktemp("fast")
    torch.manual_seed(0)
    made = build(without_pretrained(MODEL))
    torch.nn.init.normal_(made.roi_head.bbox_head.fc_cls.weight, std=0.5)
    torch.save(made.state_dict(), root / "fast.pth")
    (root / "val2017").mkdir()
    for number, image in enumerate(images()):
        Image.fromarray(image).save(root / f"val2017/{number}.png")
    shapes = [{"id": i, "file_name": f"{i}.png", "height": 32, "width": 48} for i in (0, 1)]
    truth = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 3, 28, 22], "area": 616}
    names = [{"id": i, "name": name} for i, name in enumerate("abc")]
    content = {"images": shapes, "annotations": [truth], "categories": names}
    (root / "instances.json").write_text(json.dumps(content))
    by_name = {f"val2017/{i}.png": rows.tolist() for i, rows in enumerate((BOXES, BOXES[:2]))}
    (root / "proposals.json").write_text(json.dumps(by_name))
    dataset = {"type": "CocoDataset", "data_root": str(root), "ann_file": "instances.json",
               "data_prefix": {"img": "val2017/"}, "pipeline": PIPELINE,
               "proposal_file": "proposals.json"}  # fmt: skip
    cfg = {"model": MODEL, "test_dataloader": {"dataset": dataset},
           "test_evaluator": {"type": "CocoMetric", "metric": "bbox"},
           "metainfo": {"classes": ["a", "b", "c"]}}  # fmt: skip
    Config(cfg).dump(root / "fast.py")
    return root


def images() -> list[np.ndarray[Any, Any]]:
    return list(np.random.default_rng(0).integers(0, 255, (2, 32, 48, 3), np.uint8))


@pytest.fixture(scope="module")
def predictor(folder: Path) -> ProposalDetectionPredictor:
    made = load_predictor(folder / "fast.py", folder / "fast.pth")
    assert isinstance(made, ProposalDetectionPredictor)
    return made


def test_proposals_are_resized_and_clipped_as_in_the_original(predictor: Any) -> None:
    """Resize._resize_bboxes: times the scale factor, into the image."""
    image = images()[0]
    seen: list[Any] = []
    original = predictor.model.predict
    predictor.model.predict = lambda batch: seen.append(batch) or original(batch)
    try:
        found = predictor(image, threshold=0.0, proposals=BOXES)
    finally:
        predictor.model.predict = original
    (boxes,) = seen[0]["proposals"]
    expected = (BOXES * 2).clip(0, np.float32([96, 64, 96, 64]))
    assert boxes.tolist() == expected.tolist() and seen[0]["image_sizes"] == [(64, 96)]
    with torch.inference_mode():
        direct = predictor.model.predict({**seen[0], "proposals": [torch.from_numpy(expected)]})
    assert torch.equal(direct[0].boxes, found.boxes) and len(found) > 4
    assert (found.boxes <= torch.tensor([48.0, 32, 48, 32])).all()
    scored = np.concatenate((BOXES, np.ones((4, 1), np.float32)), 1)
    assert torch.equal(predictor(image, 0.0, proposals=scored).scores, found.scores)


def test_calls_and_requests(predictor: Any) -> None:
    both = predictor(images(), threshold=0.0, proposals=[BOXES, torch.from_numpy(BOXES[:2])])
    alone = [predictor(images()[0], 0.0, proposals=BOXES),
             predictor(images()[1], 0.0, proposals=BOXES[:2])]  # fmt: skip
    filled = np.stack((BOXES, np.concatenate((BOXES[:2], np.zeros((2, 4), np.float32)))))
    tensors = {"pixels": np.stack(images()), "proposals": filled}
    served = predictor.run(predictor.decode(tensors, {}))
    one = {"pixels": images()[1][None], "proposals": BOXES[:2]}
    assert [spec.name for spec in predictor.inputs] == ["image", "pixels", "proposals"]
    for found, expected in zip(
        (*both, *served, predictor.run(predictor.decode(one, {}))[0]), (*alone * 2, alone[1]),
        strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(found.boxes, expected.boxes, rtol=1e-4, atol=1e-3)
    assert len(predictor(images()[0], 0.0, proposals=np.zeros((0, 4)))) == 0


def test_what_is_missing_or_wrong(predictor: Any) -> None:
    image = images()[0]
    with pytest.raises(InputError, match="fast has no RPN and scores proposals: give each image"):
        predictor(image)
    with pytest.raises(InputError, match="fast has no RPN"):
        predictor([image, image], proposals=[BOXES])
    with pytest.raises(InputError, match=r"proposals\[0\]: proposals have the shape \[1, 3\]"):
        predictor(image, proposals=[[1, 2, 3]])
    with pytest.raises(InputError, match=r"proposals\[0\]: proposals are not pixels"):
        predictor(image, proposals=[[1, 2, float("nan"), 3]])
    with pytest.raises(InputError, match=r"proposals\[0\]: 20001 are more than 20000"):
        predictor(image, proposals=np.ones((20_001, 4)))
    with pytest.raises(InputError, match="fast has no RPN"):
        predictor.decode({"pixels": image}, {})
    with pytest.raises(InputError, match="proposals: for 2 images; 1 were sent"):
        predictor.decode({"pixels": image, "proposals": np.stack((BOXES, BOXES))}, {})


def test_commands(folder: Path, predictor: Any) -> None:
    paths = ["--weights", str(folder / "fast.pth"), "--json"]
    image = str(folder / "val2017/1.png")
    file = ["--proposals", str(folder / "proposals.json"), "--threshold", "0"]
    done = CliRunner().invoke(predict_app, [str(folder / "fast.py"), image, *paths, *file])
    assert done.exit_code == 0, done.output
    expected = predictor(images()[1], 0.0, proposals=BOXES[:2])
    assert [row["score"] for row in json.loads(done.stdout)] == expected.scores.tolist()
    done = CliRunner().invoke(evaluate_app, [str(folder / "fast.py"), *paths])
    assert done.exit_code == 0 and 0 <= json.loads(done.stdout)["AP50"] <= 1, done.output
    data = ["--data", str(folder), "--images", "val2017", *file[:2]]
    again = CliRunner().invoke(evaluate_app, [str(folder / "fast.py"), *paths, *data,
                                              "--annotations", "instances.json"])  # fmt: skip
    assert json.loads(again.stdout) == json.loads(done.stdout)
    refused = CliRunner().invoke(predict_app, ["detr-digits", *file])
    assert "--proposals: detr-digits does not take proposals" in str(refused.exception)


def published(folder: Path, protocol: int) -> Path:
    """A pickle as mmdet's DumpProposals writes it: InstanceData of mmengine by file name."""
    module = types.ModuleType("mmengine.structures.instance_data")

    class InstanceData:
        def __init__(self, **fields: Any) -> None:
            self.__dict__.update(fields, _data_fields=set(fields), _metainfo_fields=set())

    InstanceData.__module__, InstanceData.__qualname__ = module.__name__, "InstanceData"
    module.InstanceData = InstanceData  # type: ignore[attr-defined]
    names = ("mmengine", "mmengine.structures", module.__name__)
    sys.modules.update(dict.fromkeys(names, module))
    try:
        one = InstanceData(bboxes=BOXES, scores=np.ones(4, np.float32))
        path = folder / f"{protocol}.pkl"
        path.write_bytes(pickle.dumps({"val2017/1.png": one}, protocol))
    finally:
        for name in names:
            del sys.modules[name]
    return path


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_pickles_of_version_3(protocol: int, tmp_path: Path) -> None:
    found = read_proposals(published(tmp_path, protocol))
    assert np.array_equal(found.find(tmp_path / "val2017/1.png", 7), BOXES)
    with pytest.raises(DataError, match=r"has no proposals for 'val2017/2.png'; it has val2017/1"):
        found.find("x/val2017/2.png")


def test_pickles_of_version_2(tmp_path: Path) -> None:
    rows = [np.concatenate((BOXES, np.ones((4, 1), np.float32)), 1), np.zeros((0, 5), np.float32)]
    (tmp_path / "old.pkl").write_bytes(pickle.dumps(rows))
    found = read_proposals(tmp_path / "old.pkl")
    assert np.array_equal(found.find("any.png", 0), BOXES) and found.find(None, 1).shape == (0, 4)
    with pytest.raises(DataError, match="has 2 images in order, none 2"):
        found.find(None, 2)
    with pytest.raises(DataError, match="which of them an image has is not known"):
        found.find("any.png")


class Trap:
    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit(3)",)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.pkl", pickle.dumps([Trap()]), "not a pickle of proposals .*builtins.exec"),
        ("b.pkl", b"no pickle", "not a pickle of proposals"),
        ("c.json", b"{", "not JSON"),
        ("d.json", b"3", "expected a list of boxes for each image, or a dict"),
        ("e.json", b'{"a": [[1, 2, 3]]}', r"'a': proposals have the shape \[1, 3\]"),
        ("f.json", b'{"a": {"scores": [1]}}', "'a': has no bboxes"),
        ("g.json", b'[["x"]]', "image 0: proposals are not numbers"),
    ],
)
def test_untrusted_files(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_proposals(tmp_path / name)
