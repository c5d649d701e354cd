"""init_cfg of type Pretrained: backbones start from the checkpoints that their configs name."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import cupola
from cupola import nn
from cupola.errors import BuildError, CheckpointError
from cupola.registry import MODELS
from cupola.train.initial import load_initial_weights
from cupola.train.pretrained import load_pretrained
from cupola.train.trainer import Trainer
from train.parts import TinyRegression, tiny_config

RESNET = {"type": "ResNet", "depth": 18, "base_channels": 4}


@MODELS.register_module()
class RegressionFromCheckpoint(TinyRegression):
    """TinyRegression whose backbone has an init_cfg."""

    def __init__(self, init_cfg: Any) -> None:
        super().__init__()
        self.backbone.init_cfg = init_cfg


def model_with(init_cfg: Any) -> nn.Module:
    model = nn.Module()
    model.backbone = cupola.build({**RESNET, "init_cfg": init_cfg})
    return model


def pretrained_by(checkpoint: Any, **more: Any) -> nn.Module:
    return model_with({"type": "Pretrained", "checkpoint": checkpoint, **more})


@pytest.fixture(scope="module")
def trained() -> dict[str, Tensor]:
    """A ResNet as torchvision saves it, with its classifier."""
    torch.manual_seed(5)
    return {**cupola.build(RESNET).state_dict(), "fc.weight": torch.ones(10, 32)}


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of torch's downloads."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch/hub/checkpoints"
    folder.mkdir(parents=True)
    return folder


def same(model: nn.Module, state: dict[str, Tensor]) -> bool:
    own = model.backbone.state_dict()
    return all(torch.equal(own[key], state[key]) for key in own)


def test_a_file_with_a_classifier_fills_the_backbone(
    trained: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "resnet18.pth"
    torch.save(trained, path)
    model = pretrained_by(str(path))
    assert not same(model, trained)
    (said,) = load_pretrained(model)
    assert said.startswith(f"backbone.init_cfg: loaded {len(trained) - 1} of {len(trained) - 1} te")
    assert said.endswith("not used: fc.weight")
    assert same(model, trained)


@pytest.mark.parametrize("prefix", ["backbone", "backbone."])
def test_a_prefix_chooses_a_part_of_a_detector(
    prefix: str, trained: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "detector.pth"
    whole = {f"backbone.{key}": value for key, value in trained.items()}
    torch.save({"state_dict": {**whole, "neck.weight": torch.ones(2)}, "meta": {}}, path)
    model = pretrained_by(str(path), prefix=prefix)
    load_pretrained(model)
    assert same(model, trained)
    with pytest.raises(
        CheckpointError, match=r"no key begins with 'body\.'; they begin with backbo"
    ):
        load_pretrained(pretrained_by(str(path), prefix="body"))
    with pytest.raises(CheckpointError, match=r"backbone.init_cfg: .*`prefix` in init_cfg chooses"):
        load_pretrained(pretrained_by(str(path)))


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("torchvision://resnet18", "resnet18-f37072fd.pth"),
        ("torchvision://resnet18", "resnet18-5c106cde.pth"),
        ("https://example.org/models/resnet18_a.pth?raw=1", "resnet18_a.pth"),
        ("open-mmlab://detectron2/resnet50_caffe", "resnet50_msra-5891d200.pth"),
        ("open-mmlab://resnest50", "resnest50-0b1d2.pth"),
        ("open-mmlab://resnest50", "resnest50_d2-7497a55b.pth"),
    ],
)
def test_names_are_looked_for_among_the_downloads(
    name: str, file: str, trained: dict[str, Tensor], cached: Path
) -> None:
    (said,) = load_pretrained(pretrained_by(name))
    assert said.startswith(
        f"backbone.init_cfg is not loaded, and the weights stay random: {name}: not"
    )
    assert "\n" not in said and str(cached) in said and "download the file and pass its" in said
    torch.save(trained, cached / file)
    model = pretrained_by(name)
    assert str(cached / file) in load_pretrained(model)[0]
    assert same(model, trained)


def test_load_from_finds_downloads_too(trained: dict[str, Tensor], cached: Path) -> None:
    with pytest.raises(
        CheckpointError,
        match=r"load_from: .*: not in .*, and offline mode is on; .* or use --set load_from=None",
    ):
        load_initial_weights(model_with(None).backbone, "torchvision://resnet18")
    torch.save(trained, cached / "resnet18-f37072fd.pth")
    model = model_with(None)
    load_initial_weights(model.backbone, "torchvision://resnet18")
    assert same(model, trained)


def test_a_repository_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (said,) = load_pretrained(pretrained_by("hf://nobody/nothing"))
    assert "stay random: hf://nobody/nothing: not in the cache" in said


def test_wrong_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"backbone\.init_cfg: .*missing\.pth"):
        load_pretrained(pretrained_by(str(tmp_path / "missing.pth")))
    assert load_pretrained(pretrained_by("missing.pth"), required=False) == []
    assert load_pretrained(pretrained_by("torchvision://missing"), required=False) == []
    with pytest.raises(BuildError, match=r"backbone.init_cfg: checkpoint is None; expected a pa"):
        load_pretrained(pretrained_by(None))
    assert load_pretrained(model_with([{"type": "Constant", "layer": "Conv2d", "val": 1}])) == []


def test_a_training_starts_from_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "linear.pth"
    torch.save({"weight": torch.full((8, 3), 7.0), "bias": torch.zeros(8)}, path)
    init = {"type": "Pretrained", "checkpoint": str(path)}
    cfg = tiny_config(model={"type": "RegressionFromCheckpoint", "init_cfg": init})
    trainer = Trainer(cfg, tmp_path / "run")
    trainer._begin(resume=False)
    assert bool((trainer.model.backbone.weight == 7).all())
    assert any("backbone.init_cfg: loaded 2 of 2 tensors" in note for note in trainer._notes)
