"""The published configs of both repositories build, in the original's order."""

from pathlib import Path

import pytest

import cupola
from cupola import nn
from cupola.config import Config
from cupola.registry import build
from golden import golden

CONFIGS = Path(cupola.__file__).parent / "configs" / "detr3d"
SIZES = {  # parameters in millions, as the originals count them
    "detr3d_r101_gridmask": 53.67,
    "detr3d_r101_gridmask_cbgs": 53.67,
    "detr3d_vovnet_gridmask_trainval_cbgs": 78.62,
}
# What the original constructs, in its order: the head stands before the backbone.
ORDER = [
    "DETR3D",
    "Det3DDataPreprocessor",
    "DETR3DHead",
    "NMSFreeCoder",
    "HungarianAssigner3D",
    "FocalLossCost",
    "BBox3DL1Cost",
    "IoUCost",
    "PseudoSampler",
    "FocalLoss",
    "L1Loss",
    "GIoULoss",
    "ReLU",
    "SinePositionalEncoding",
    "Detr3DTransformer",
    "Detr3DTransformerDecoder",
    "TransformerLayer",
    "MultiheadAttention",
    "Detr3DCrossAtten",
    "FFN",
    "ResNet",
    "FPN",
]


def build_without_data(model: dict) -> nn.Module:
    with nn.on_meta():
        return build(model)


@pytest.mark.parametrize("name", SIZES)
def test_our_configs_build_the_published_models(name: str) -> None:
    model = build_without_data(Config.load(CONFIGS / f"{name}.py").to_dict()["model"])
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    assert millions == pytest.approx(SIZES[name], abs=0.005)


def test_our_config_equals_the_golden_s() -> None:
    ours = Config.load(CONFIGS / "detr3d_r101_gridmask.py").to_dict()["model"]
    theirs = golden("detr3d_r101_dcn").config["model"]
    keys = [list(build_without_data(cfg).state_dict()) for cfg in (ours, theirs)]
    assert keys[0] == keys[1]
    assert len(keys[0]) == 946


def test_a_config_of_the_original_repository_builds(tmp_path: Path) -> None:
    text = (CONFIGS / "detr3d_r101_gridmask.py").read_text()
    text = text.replace('"DETR3D"', '"Detr3D"').replace('"DETR3DHead"', '"Detr3DHead"')
    text = "plugin = True\nplugin_dir = 'projects/mmdet3d_plugin/'\n" + text
    text += "custom_imports = dict(imports=['projects.DETR3D.detr3d'])\n"
    text += "del model['data_preprocessor']\n"
    (tmp_path / "detr3d_res101_gridmask.py").write_text(text)
    cfg = Config.load(tmp_path / "detr3d_res101_gridmask.py").to_dict()
    assert len(build_without_data(cfg["model"]).state_dict()) == 946


def test_the_parts_are_built_in_the_original_s_order() -> None:
    model = build_without_data(golden("detr3d_r50").config["model"])
    built = [part.cls.rsplit(".", 1)[-1] for part in model.build_record.parts]
    first = [built.index(name) for name in ORDER]
    assert first == sorted(first)


def test_branches_start_equal_and_advance_the_generator_once() -> None:
    import torch

    from models.detr3d.small import small_config

    torch.manual_seed(0)
    model = build(small_config())
    a, b = model.pts_bbox_head.reg_branches
    assert a is not b
    assert torch.equal(a[0].weight, b[0].weight)
