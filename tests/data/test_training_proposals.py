"""Proposals of a file: along a pipeline, in both spellings, and in a training."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cupola.data.pipeline import Compose
from cupola.errors import DataError
from cupola.registry import DATASETS, build
from cupola.train.version2_pipeline import translated_pipeline
from models.rcnn.rcnn_small import model

BOXES = np.array([[4, 6, 20, 30], [30, 10, 60, 40]], np.float32)
PIPELINE = [
    {"type": "LoadImageFromFile"},
    {"type": "LoadProposals", "num_max_proposals": 3},
    {"type": "LoadAnnotations", "with_bbox": True},
    {
        "type": "ProposalBroadcaster",
        "transforms": [
            {"type": "RandomChoiceResize", "scales": [(96, 64), (48, 32)], "keep_ratio": True},
            {"type": "RandomFlip", "prob": 0.5},
        ],
    },
    {"type": "PackDetInputs"},
]
OLD = [
    {"type": "LoadImageFromFile"},
    {"type": "LoadProposals", "num_max_proposals": 3},
    {"type": "LoadAnnotations", "with_bbox": True},
    {"type": "Resize", "img_scale": [(96, 64), (48, 32)], "multiscale_mode": "value"},
    {"type": "RandomFlip", "flip_ratio": 0.5},
    {"type": "Normalize", "mean": [0, 0, 0], "std": [1, 1, 1]},
    {"type": "DefaultFormatBundle"},
    {"type": "Collect", "keys": ["img", "proposals", "gt_bboxes", "gt_labels"]},
]


def folder(root: Path) -> Path:
    """Two images of 96 x 64; the proposals of the second are its objects' boxes."""
    (root / "val").mkdir()
    images, annotations = [], []
    for number in range(2):
        Image.new("RGB", (96, 64), (50, 90, 200)).save(root / f"val/{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 96, "height": 64})
    for left, top, right, bottom in BOXES.tolist():
        box = [left, top, right - left, bottom - top]
        number = len(annotations) + 1
        annotations.append({"id": number, "image_id": 1, "category_id": 1, "bbox": box})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "a"}]}
    (root / "instances.json").write_text(json.dumps(content))
    more = np.concatenate([BOXES, [[0, 0, 9, 9], [1, 1, 5, 5]]])
    scored = np.concatenate([more, np.ones((4, 1))], 1).astype(np.float32)
    (root / "old.pkl").write_bytes(pickle.dumps([np.zeros((0, 5), np.float32), scored]))
    named = {"val/0.png": {"bboxes": []}, "val/1.png": {"bboxes": more.tolist()}}
    (root / "new.json").write_text(json.dumps(named))
    return root


def dataset(root: Path, **options: Any) -> Any:
    return DATASETS.build({
        "type": "CocoDataset", "data_root": str(root), "data_prefix": "val", **options
    })  # fmt: skip


def test_proposals_move_with_the_objects(tmp_path: Path) -> None:
    root = folder(tmp_path)
    new = dataset(root, pipeline=PIPELINE, proposal_file="new.json")
    # the second image only: its number in the file of proposals stays 1
    rule = {"filter_empty_gt": True}
    steps = translated_pipeline(OLD)
    assert [step["type"] for step in steps] == [step["type"] for step in PIPELINE][:-1]
    old = dataset(root, pipeline=steps, proposal_file="old.pkl", filter_cfg=rule)
    assert len(new) == 2 and len(old) == 1
    seen = set()
    for epoch in range(12):
        new.set_epoch(epoch), old.set_epoch(epoch)
        for sample in (new[1], old[0]):
            assert len(sample["proposals"]) == 3
            assert torch.equal(sample["proposals"][:2], sample["boxes"])
            seen.add((sample["boxes"][0, 0].item(), sample["image"].shape[-1]))
    assert seen == {(4, 96), (76, 96), (2, 48), (38, 48)}
    batch = new.collate([new[0], new[1]])
    assert [len(each) for each in batch["proposals"]] == [0, 3]


def test_a_fast_r_cnn_trains_with_them(tmp_path: Path) -> None:
    cfg = {key: value for key, value in model().items() if key != "rpn_head"}
    fast = build({**cfg, "type": "FastRCNN"})
    data = dataset(folder(tmp_path), pipeline=PIPELINE, proposal_file="new.json")
    losses = fast.loss(data.collate([data[0], data[1]]))
    assert set(losses) == {"loss_cls", "acc", "loss_bbox"} and losses["loss_bbox"] > 0


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    data = dataset(folder(tmp_path), pipeline=PIPELINE)
    with pytest.raises(DataError, match="LoadProposals: the dataset needs a proposal_file"):
        data[0]
    with pytest.raises(DataError, match="expected 1 or more"):
        Compose([{"type": "LoadProposals", "num_max_proposals": 0}])
    with pytest.raises(DataError, match="needs LoadProposals before it"):
        dataset(tmp_path, pipeline=[PIPELINE[3]])[0]
    with pytest.raises(DataError, match=r"no proposals for 'val/1\.png'"):
        (tmp_path / "new.json").write_text('{"val/0.png": []}')
        dataset(tmp_path, pipeline=PIPELINE, proposal_file="new.json")[1]
