"""DCNv2 in plain torch against mmcv 2.1.0: forward and every gradient."""

import pytest
import torch
import torch.nn.functional as F

from cupola.ops import deform_conv
from cupola.registry import MODELS
from cupola.runtime.optimize.folding import fold_batch_norms
from golden import golden

GOLDEN = golden("dcnv2_mmcv")
CASES = GOLDEN.config["cases"]


def build(kind: str, case: dict[str, int]) -> torch.nn.Module:
    return MODELS.build(
        {
            "type": kind,
            "in_channels": case["cin"],
            "out_channels": case["cout"],
            "kernel_size": case["k"],
            "stride": case["s"],
            "padding": case["p"],
            "dilation": case["d"],
            "groups": case["g"],
            "deform_groups": case["dg"],
            "bias": case["bias"],
        }
    )


def inputs(i: int) -> dict[str, torch.Tensor]:
    """x, offset, mask and cotangent of a case, by the golden's formulas."""
    from goldens import seeded

    made = {}
    for name in ("x", "offset", "mask", "cotangent"):
        about = GOLDEN.json["inputs"][f"c{i}/{name}"]
        draw = seeded.seeded_uniform if name == "mask" else seeded.seeded_input
        value = torch.from_numpy(draw(f"c{i}/{name}", about["shape"]))
        made[name] = 2 * value if name == "offset" else value
    return made


@pytest.mark.parametrize("i", range(len(CASES)))
def test_forward_and_gradients(i: int) -> None:
    layer = build("ModulatedDeformConv2d", CASES[i])
    layer.load_state_dict(GOLDEN.weights(GOLDEN.json["weights"][f"c{i}/"], f"c{i}/"))
    tensors = inputs(i)
    leaves = {name: tensors[name].requires_grad_() for name in ("x", "offset", "mask")}
    out = layer(**leaves)
    (out * tensors["cotangent"]).sum().backward()
    assert GOLDEN.difference(f"c{i}/out", out) < 2e-5
    for name, leaf in leaves.items():
        assert GOLDEN.difference(f"c{i}/grad_{name}", leaf.grad) < 5e-5, name
    assert GOLDEN.difference(f"c{i}/grad_weight", layer.weight.grad) < 2e-4
    if layer.bias is not None:
        assert GOLDEN.difference(f"c{i}/grad_bias", layer.bias.grad) < 2e-4


@pytest.mark.parametrize("i", range(len(CASES)))
def test_pack_predicts_its_offsets(i: int) -> None:
    layer = build("DCNv2", CASES[i])
    layer.load_state_dict(GOLDEN.weights(GOLDEN.json["weights"][f"c{i}/pack/"], f"c{i}/pack/"))
    assert GOLDEN.difference(f"c{i}/pack_out", layer(inputs(i)["x"])) < 2e-5


@pytest.mark.parametrize("i", range(len(CASES)))
def test_exported_graphs_compute_the_same(i: int, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = build("ModulatedDeformConv2d", CASES[i])
    tensors = {name: inputs(i)[name] for name in ("x", "offset", "mask")}
    with torch.no_grad():
        eager = layer(**tensors)
        monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
        exported = layer(**tensors)
    torch.testing.assert_close(exported, eager, rtol=0, atol=2e-5)


def test_offsets_that_are_not_finite_read_nothing() -> None:
    x, offset, weight = torch.randn(1, 4, 6, 7), torch.zeros(1, 18, 6, 7), torch.randn(4, 4, 3, 3)
    expected = deform_conv.deform_conv2d(x, offset, weight, padding=1)
    offset[0, 8, 2, 3] = float("nan")  # row of the central tap
    offset[0, 9, 4, 5] = float("inf")  # its column
    out = deform_conv.deform_conv2d(x, offset, weight, padding=1)
    for row, column in ((2, 3), (4, 5)):
        missing = weight[:, :, 1, 1] @ x[0, :, row, column]
        expected[0, :, row, column] -= missing
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("i", range(len(CASES)))
def test_no_mask_equals_a_mask_of_ones(i: int) -> None:
    case, tensors = CASES[i], inputs(i)
    weight = torch.randn(case["cout"], case["cin"] // case["g"], case["k"], case["k"])
    settings = [case[key] for key in ("s", "p", "d", "g", "dg")]
    given = (tensors["x"], tensors["offset"], weight, None, *settings)
    plain = deform_conv.deform_conv2d(*given)
    masked = deform_conv.deform_conv2d(*given, mask=torch.ones_like(tensors["mask"]))
    torch.testing.assert_close(plain, masked, rtol=0, atol=0)


def test_a_fresh_pack_is_half_a_plain_convolution() -> None:
    layer = build("DCNv2", {**CASES[0], "bias": True})
    x = torch.randn(1, CASES[0]["cin"], 9, 11)
    plain = F.conv2d(x, layer.weight, padding=1)  # offsets 0, masks sigmoid(0) = 0.5
    torch.testing.assert_close(layer(x), 0.5 * plain, rtol=0, atol=1e-5)


def test_an_offset_of_the_wrong_shape_is_an_error() -> None:
    layer = build("ModulatedDeformConv2d", CASES[0])
    with pytest.raises(ValueError, match=r"offset should be \(1, 18, 5, 5\), got \(1, 9, 5, 5\)"):
        layer(torch.zeros(1, 16, 5, 5), torch.zeros(1, 9, 5, 5), torch.zeros(1, 9, 5, 5))


def test_version_1_in_a_published_backbone() -> None:
    """Backbone and neck of mmdet's Faster R-CNN with DCN in stages 2 to 4."""
    reference = golden("dconv_mmdet")
    config = reference.config["model"]
    built = {name: MODELS.build(config[name]).eval() for name in ("backbone", "neck")}
    weights = reference.weights()
    for name, module in built.items():
        own = {k.removeprefix(f"{name}."): v for k, v in weights.items() if k.startswith(name)}
        state = module.state_dict()
        assert [key for key in state if not key.endswith("num_batches_tracked")] == list(own)
        module.load_state_dict({**state, **own})
    pixels = reference.image("image", reference.json["image"])
    for image, (height, width) in zip(pixels, reference.json["img_shapes"], strict=True):
        image[:, height:] = 0
        image[:, :, width:] = 0
    with torch.no_grad():
        maps = built["neck"](built["backbone"](pixels))
        folded = built["neck"](fold_batch_norms(built["backbone"])(pixels))
    for i, (each, quick) in enumerate(zip(maps, folded, strict=True)):
        assert reference.relative(f"feat.{i}", each) < 1e-4, i
        assert reference.relative(f"feat.{i}", quick) < 1e-4, i
