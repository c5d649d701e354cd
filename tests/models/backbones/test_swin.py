"""Swin Transformer against mmdet's and transformers', and its settings."""

import pytest
import torch
from torch import Tensor

from cupola import nn
from cupola.errors import BuildError
from cupola.models.layers.window_attention import relative_positions
from cupola.registry import MODELS
from cupola.weights import load_weights
from golden import golden
from goldens import seeded

GOLDEN = golden("swin_mmdet")
TINY = {"embed_dims": 16, "depths": (2, 2), "num_heads": (2, 4), "strides": (4, 2)}


def build(**settings) -> nn.Module:
    return MODELS.build({"type": "SwinTransformer", "out_indices": (0, 1), **TINY, **settings})


@pytest.mark.parametrize("name", GOLDEN.json["cases"])
def test_features_keys_and_tables_are_those_of_mmdet(name: str) -> None:
    case = GOLDEN.json["cases"][name]
    model = MODELS.build(
        {"type": "SwinTransformer", "strides": (4, 2, 2, 2), **case["config"]}
    ).eval()
    own = model.state_dict()
    assert [[k, list(v.shape), str(v.dtype)[6:]] for k, v in own.items()] == case["keys"]
    weights = {
        key: torch.from_numpy(seeded.seeded_weight(f"{name}.{key}", shape, "", dtype))
        for key, shape, dtype in case["keys"]
        if dtype.startswith("float")
    }
    model.load_state_dict({**own, **weights})
    with torch.no_grad():
        maps = model(GOLDEN.image(name, case["image"]))
    for index, found in enumerate(maps):
        assert GOLDEN.relative(f"{name}.{index}", found) < 1e-5


def test_relative_positions_count_from_the_far_corner() -> None:
    index = relative_positions(2)
    assert index.tolist() == [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]


def test_gradients_reach_every_parameter() -> None:
    model = build(drop_path_rate=0.0)
    sum(out.square().sum() for out in model(torch.randn(1, 3, 60, 50))).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_frozen_stages_stay_frozen_in_training() -> None:
    model = build(frozen_stages=1, use_abs_pos_embed=True, pretrain_img_size=32)
    model.train()
    trained = {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad}
    assert trained == {"stages", "norm1"}
    assert not model.stages[0].training and model.stages[1].training
    assert not any(p.requires_grad for p in model.stages[0].parameters())


def test_drop_path_grows_with_depth() -> None:
    model = build(drop_path_rate=0.3)
    found = [block.attn.drop.drop_prob for stage in model.stages for block in stage.blocks]
    assert found == pytest.approx([0.0, 0.1, 0.2, 0.3])


def test_absolute_positions_are_resized_to_other_images() -> None:
    model = build(use_abs_pos_embed=True, pretrain_img_size=(32, 48)).eval()
    assert model.absolute_pos_embed.shape == (1, 8 * 12, 16)
    assert model(torch.randn(1, 3, 64, 40))[0].shape == (1, 16, 16, 10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch_size": 8}, r"strides\[0\] is 4, but patches do not overlap: 8"),
        ({"num_heads": (2,)}, "one number per stage, got 2, 1 and 2"),
        ({"out_indices": (2,)}, "there are 2 stages"),
        ({"pretrain_img_size": (1, 2, 3)}, r"a side or \(height, width\)"),
    ],
)
def test_wrong_settings(settings, message) -> None:
    with pytest.raises(BuildError, match=message):
        build(**settings)


def microsoft(model: nn.Module, window: int | None = None) -> dict[str, Tensor]:
    """The state of a backbone as a classifier of microsoft/Swin-Transformer has it."""
    renames = {
        "stages.": "layers.",
        "attn.w_msa.": "attn.",
        "ffn.layers.0.0.": "mlp.fc1.",
        "ffn.layers.1.": "mlp.fc2.",
        "patch_embed.projection": "patch_embed.proj",
    }
    state = {"head.weight": torch.zeros(9, 32), "norm.weight": torch.zeros(32)}
    state["layers.0.blocks.1.attn_mask"] = torch.zeros(1)
    for key, value in model.state_dict().items():
        if "downsample" in key:  # patches first: (0, 0), (1, 0), (0, 1), (1, 1)
            value = value.unflatten(-1, (-1, 4)).transpose(-1, -2)[..., [0, 2, 1, 3], :].flatten(-2)
        for old, new in renames.items():
            key = key.replace(old, new)
        if key[:4] != "norm":
            state[key] = value
    return state


@pytest.mark.parametrize("form", ["bare", "in a detector"])
def test_checkpoints_of_the_original_load(form: str) -> None:
    source, model = build(), build()
    if form == "in a detector":
        model = nn.ModuleDict({"backbone": model, "head": nn.Linear(2, 2)})
    report = load_weights(model, microsoft(source), partial=True)
    assert report.dialect == "swin"
    loaded = model if form == "bare" else model["backbone"]
    ours, theirs = loaded.state_dict(), source.state_dict()
    for key, value in theirs.items():
        assert torch.equal(ours[key], value), key


def test_tables_of_another_window_are_resized() -> None:
    source, model = build(window_size=7), build(window_size=12)
    load_weights(model, microsoft(source), partial=True)
    key = "stages.0.blocks.0.attn.w_msa.relative_position_bias_table"
    table, wide = source.state_dict()[key], model.state_dict()[key]
    assert wide.shape == (23 * 23, 2)
    assert torch.allclose(wide.view(23, 23, 2)[11, 11], table.view(13, 13, 2)[6, 6], atol=1e-4)


def test_original_of_transformers() -> None:
    """The same function as SwinBackbone, whose parts are named and split differently."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.SwinConfig(
        embed_dim=16,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=5,
        out_features=["stage1", "stage2"],
    )
    peer = transformers.SwinBackbone(config).eval()
    for parameter in peer.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model = build(window_size=5).eval()
    load_weights(model, peer.state_dict())
    pixels = torch.randn(2, 3, 67, 90)
    with torch.no_grad():
        for ours, theirs in zip(model(pixels), peer(pixels).feature_maps, strict=True):
            assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()
