"""Fine-tuning: published bases train, and load_from takes what fits of another model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import cupola
from cupola.bundles import Bundle
from cupola.config import Config
from cupola.errors import BuildError, CheckpointError
from cupola.models.detr.preprocessor import DetDataPreprocessor
from cupola.models.layers.building import build_activation, build_conv, build_norm
from cupola.registry.initialize import initialize
from cupola.runtime import Predictor
from cupola.train.checkpoints import LATEST
from cupola.train.initial import load_initial_weights
from cupola.train.recipe import train_recipe
from cupola.train.trainer import Trainer
from cupola.weights.dialects import DIALECTS
from train.parts import TinyRegression, tiny_config

NAMES = ("cat", "dog")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images with a cat and a dog each, in the layout of COCO."""
    root = tmp_path_factory.mktemp("coco")
    (root / "train2017").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (4, 48, 64, 3), np.uint8)
    for number in range(4):
        Image.fromarray(pixels[number]).save(root / f"train2017/{number}.png")
    images = [{"id": n, "file_name": f"{n}.png", "width": 64, "height": 48} for n in range(4)]
    annotations = [
        {"id": 2 * n + k + 1, "image_id": n, "category_id": k + 1, "bbox": [5 + 20 * k, 5, 20, 30],
         "area": 600, "iscrowd": 0}
        for n in range(4) for k in range(2)
    ]  # fmt: skip
    categories = [{"id": k + 1, "name": name} for k, name in enumerate(NAMES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "instances.json").write_text(json.dumps(content))
    return root


SCHEDULE = """
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-4, weight_decay=1e-4),
    clip_grad=dict(max_norm=0.1, norm_type=2),
    paramwise_cfg=dict(custom_keys={"backbone": dict(lr_mult=0.1)}),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=5),
    dict(type="MultiStepLR", begin=0, end=2, by_epoch=True, milestones=[1], gamma=0.1),
]
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=2, val_interval=1)
val_cfg = dict(type="ValLoop")
default_scope = "mmdet"
default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=1),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="CheckpointHook", interval=1, save_best="coco/bbox_mAP_50"),
    sampler_seed=dict(type="DistSamplerSeedHook"),
    visualization=dict(type="DetVisualizationHook"),
)
visualizer = dict(type="DetLocalVisualizer", vis_backends=[dict(type="LocalVisBackend")])
auto_scale_lr = dict(base_batch_size=16)
load_from = None
"""
DATA = """
pipeline = [
    dict(type="LoadImageFromFile", backend_args=None),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="Resize", scale=(64, 64), keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type="DefaultSampler", shuffle=True),
    batch_sampler=dict(type="AspectRatioBatchSampler"),
    dataset=dict(
        type="CocoDataset",
        data_root="data/coco/",
        ann_file="annotations/instances_train2017.json",
        data_prefix=dict(img="train2017/"),
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline=pipeline,
        backend_args=None,
    ),
)
val_dataloader = dict(
    batch_size=1,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="CocoDataset",
        data_root="data/coco/",
        ann_file="annotations/instances_val2017.json",
        data_prefix=dict(img="train2017/"),
        test_mode=True,
        pipeline=pipeline,
    ),
)
val_evaluator = dict(
    type="CocoMetric",
    ann_file="annotations/instances_val2017.json",
    metric="bbox",
    format_only=False,
)
"""


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an unpacked `mmdet` that ships one config, a small DETR."""
    configs = tmp_path / "packages/mmdet/.mim/configs/detr"
    configs.mkdir(parents=True)
    model = Config.load("src/cupola/configs/digits/detr_digits.py").to_dict()["model"]
    model["neck"]["norm_cfg"] = None
    model["data_preprocessor"] = {
        "type": "DetDataPreprocessor",
        "mean": [103.53, 116.28, 123.675],
        "std": [1.0, 1.0, 1.0],
        "bgr_to_rgb": False,
    }
    model.pop("training_groups")
    (configs / "small.py").write_text(f"{DATA}{SCHEDULE}model = {model!r}\n")
    monkeypatch.setenv("CUPOLA_CONFIG_PATH", str(tmp_path / "packages"))
    return tmp_path / "packages"


def own_config(base: str, folder: Path, more: str = "") -> str:
    data = (
        f"dict(dataset=dict(data_root={str(folder)!r}, ann_file='instances.json', "
        f"metainfo=dict(classes={NAMES!r})))"
    )
    return (
        f"_base_ = {base!r}\nmodel = dict(bbox_head=dict(num_classes=2))\n"
        f"train_dataloader = {data}\nval_dataloader = {data}\n{more}"
    )


def test_a_base_of_another_package_trains(
    packages: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "own.py"
    bundle = "bundle = dict(name='pets', task='detection', labels=['cat', 'dog'])\n"
    config.write_text(own_config("mmdet::detr/small.py", folder, bundle))
    written = train_recipe(str(config), tmp_path / "run")
    lines = (tmp_path / "run/log.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines if json.loads(line)["kind"] == "train"]
    assert steps == [1, 2, 3, 4]
    assert (tmp_path / "run" / LATEST).is_file()
    # the dataset normalizes as the model's data_preprocessor does, and the bundle from RGB
    trainer = Trainer(Config.load(config).to_dict(), tmp_path / "again", quiet=True)
    pixels = trainer.stream.dataset[0]["image"]
    raw = np.asarray(Image.open(folder / "train2017/0.png").resize((64, 48)))
    asked = DetDataPreprocessor([103.53, 116.28, 123.675], [1.0] * 3)
    bgr = torch.from_numpy(raw[..., ::-1].copy()).permute(2, 0, 1)
    wanted = asked.normalize(bgr)
    assert torch.equal(pixels, wanted) or torch.equal(pixels, wanted.flip(-1))
    assert written is not None
    predictor = Predictor.load(written)
    assert torch.equal(predictor.model.data_preprocessor.normalize(bgr.flip(0)), wanted)


def test_types_may_name_their_package() -> None:
    cfg = tiny_config(
        param_scheduler=[{"type": "mmengine.CosineAnnealingLR", "by_epoch": False, "_scope_": "x"}],
        ema={"decay": 0.9, "_scope_": "mmdet"},
    )
    cfg["optim_wrapper"]["optimizer"]["type"] = "torch.optim.AdamW"
    cfg["optim_wrapper"]["_scope_"] = "mmdet"
    cfg["optim_wrapper"]["optimizer"]["_scope_"] = "mmdet"
    cfg["val_evaluator"] = [{**cfg["val_evaluator"], "_scope_": "mmdet"}]
    trainer = Trainer(cfg, Path("unused"), quiet=True)
    assert type(trainer.optimizer).__name__ == "AdamW"


def test_what_has_no_effect_is_said(tmp_path: Path) -> None:
    cfg = tiny_config(custom_hooks=[{"type": "mmdet.MeanTeacherHook"}])
    cfg["train_dataloader"] = {**cfg["train_dataloader"], "sampler": {"type": "TrackImgSampler"}}
    notes = Trainer(cfg, tmp_path, quiet=True)._notes
    assert notes == [
        "hooks that are not run: MeanTeacherHook",
        "sampler TrackImgSampler: images are shuffled instead",
    ]


def test_the_rate_follows_the_batch_where_asked(tmp_path: Path) -> None:
    cfg = tiny_config(auto_scale_lr={"enable": True, "base_batch_size": 16})
    rates = {
        group["base_lr"] for group in Trainer(cfg, tmp_path, quiet=True).optimizer.param_groups
    }
    assert rates == {0.01, 0.005}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train_dataloader": None}, "a training config needs train_dataloader"),
        ({"optim_wrapper": ["x"]}, "optim_wrapper: expected a dict"),
        ({"auto_scale_lr": {"enable": True}}, "auto_scale_lr: needs base_batch_size"),
        ({"param_scheduler": [{"type": "MultiStepLR"}]}, "MultiStepLR: needs milestones"),
        ({"val_evaluator": [{"type": "TinyError"}] * 2}, "twice; give each a prefix"),
    ],
)
def test_wrong_sections_are_named(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BuildError, match=said):
        Trainer(tiny_config(**changes), tmp_path, quiet=True).run()


def small_detr(classes: int) -> Any:
    model = Config.load("src/cupola/configs/digits/detr_digits.py").to_dict()["model"]
    return cupola.build({**model, "bbox_head": {**model["bbox_head"], "num_classes": classes}})


HEADS = ("bbox_head.fc_cls.", "class_embed.", "class_labels_classifier.")


@pytest.mark.parametrize("dialect", ["cupola", "facebook", "hf-detr", "mmdet2"])
@pytest.mark.parametrize("deleted", [False, True])
def test_other_classes_start_from_a_new_head(dialect: str, deleted: bool, tmp_path: Path) -> None:
    source, model = small_detr(80), small_detr(2)
    state = dict(source.state_dict())
    if dialect != "cupola":
        to_theirs = DIALECTS[dialect].to_theirs
        assert to_theirs is not None
        state = to_theirs(state)
    if deleted:
        state = {key: value for key, value in state.items() if not key.startswith(HEADS)}
    torch.save({"model": state}, tmp_path / "other.pth")
    head = model.bbox_head.fc_cls.weight.clone()
    said = load_initial_weights(model, str(tmp_path / "other.pth"))
    assert "\n" not in said
    shape = "(not in the checkpoint)" if deleted else "(81, 128) -> (3, 128)"
    assert f"newly initialized: bbox_head.fc_cls.weight {shape}" in said
    assert torch.equal(model.bbox_head.fc_cls.weight, head)
    assert torch.equal(model.bbox_head.fc_reg.weight, source.bbox_head.fc_reg.weight)
    assert torch.equal(model.query_embedding.weight, source.query_embedding.weight)
    with pytest.raises(CheckpointError, match=r"bbox_head\.fc_cls\.weight"):
        load_initial_weights(model, {"path": str(tmp_path / "other.pth"), "strict": True})


def test_a_training_checkpoint_and_a_shipped_bundle_are_starting_points(tmp_path: Path) -> None:
    Trainer(tiny_config(), tmp_path, quiet=True).run()
    model = TinyRegression()
    model.head = torch.nn.Linear(8, 3)
    said = load_initial_weights(model, tmp_path / LATEST)
    assert said.startswith("loaded 2 of 4 tensors") and "head.weight (1, 8) -> (3, 8)" in said
    detector = small_detr(2)
    said = load_initial_weights(detector, "detr-digits")
    assert str(Bundle.load("detr-digits").weights_path) in said
    assert "bbox_head.fc_cls.weight (11, 128) -> (3, 128)" in said


@pytest.mark.parametrize(
    ("load_from", "said"),
    [
        ({"path": "x.pth", "strikt": True}, "unknown key 'strikt'; did you mean 'strict'"),
        ({"prefix": "backbone"}, "expected a path, got None"),
        ("https://download.example.org/detr.pth", "and offline mode is on; download the file"),
        ("missing.pth", "no such checkpoint"),
    ],
)
def test_a_wrong_load_from_is_named(load_from: Any, said: str) -> None:
    with pytest.raises((BuildError, CheckpointError), match=said):
        load_initial_weights(TinyRegression(), load_from)


def test_more_classes_than_the_model_has_are_an_error(folder: Path, tmp_path: Path) -> None:
    cfg = Config.load("src/cupola/configs/digits/detr_digits.py").to_dict()
    cfg["model"]["bbox_head"]["num_classes"] = 1
    dataset = {"type": "CocoDataset", "data_root": str(folder), "data_prefix": {"img": "train2017"}}
    cfg["train_dataloader"] = {"batch_size": 2, "dataset": dataset}
    with pytest.raises(BuildError, match=r"the data has 2 classes, .*num_classes is 1; set it to"):
        Trainer(cfg, tmp_path, quiet=True)
    cfg["model"]["bbox_head"]["num_classes"] = 10
    assert Trainer(cfg, tmp_path, quiet=True)._notes == [
        "the data has 2 classes, model.bbox_head.num_classes is 10"
    ]


def test_layers_may_name_their_package() -> None:
    norm = build_norm({"type": "mmcv.GN", "num_groups": 2, "_scope_": "mmdet"}, 4)
    assert norm.num_channels == 4
    gelu = build_activation({"type": "mmcv.GELU", "inplace": True, "_scope_": "mmdet"})
    assert type(gelu).__name__ == "GELU"
    conv = build_conv({"type": "mmcv.Conv2d", "_scope_": "mmdet"}, 2, 3, 1)
    init = {"type": "mmengine.Constant", "layer": "Conv2d", "val": 0.5, "_scope_": "mmengine"}
    initialize(conv, init)
    assert (conv.weight == 0.5).all()
