"""Against the originals: FourCastNet, AFNO-transformer and physicsnemo, values and gradients."""

from typing import Any

import pytest
import torch
from torch import Tensor

from cupola.models.afno import AFNO1D, AFNO2D, AFNONet, PrecipNet
from models.afno.field_golden import FieldGolden


def fourcastnet(golden: FieldGolden) -> AFNONet:
    c = golden.config
    return AFNONet(
        img_size=tuple(c["img"]),
        patch_size=c["patch"],
        in_chans=c["cin"],
        out_chans=c["cout"],
        embed_dim=c["embed"],
        depth=c["depth"],
        num_blocks=c["nb"],
        hard_thresholding_fraction=c["frac"],
        sparsity_threshold=c["sp"],
    ).eval()


def watch(model: Any, golden: FieldGolden) -> dict[str, Tensor]:
    """Outputs of the parts that the golden recorded, filled by the next forward."""
    seen: dict[str, Tensor] = {}
    parts = {"patch_embed": model.patch_embed, "block0_filter": model.blocks[0].filter}
    parts |= {f"block{i}": block for i, block in enumerate(model.blocks)}
    for name, part in parts.items():
        if name in golden.json["outputs"]:
            part.register_forward_hook(
                lambda module, args, out, name=name: seen.__setitem__(name, out.detach().clone())
            )
    return seen


def check_model(model: Any, golden: FieldGolden, tolerance: float) -> None:
    seen = watch(model, golden)
    x = golden.input("x")
    with torch.no_grad():
        golden.check("out", model(x), tolerance)
    assert seen, "no part was watched"
    for name, value in seen.items():
        golden.check(name, value, tolerance)


def check_gradients(module: Any, out: Tensor, cotangent: Tensor, golden: FieldGolden) -> None:
    (out * cotangent).sum().backward()
    gradients = {name: p.grad for name, p in module.named_parameters()}
    names = [name for name in golden.json["outputs"] if name.startswith("grad/")]
    assert names
    for name in names:
        golden.check_relative(name, gradients[name.removeprefix("grad/")], 1e-4)


@pytest.mark.parametrize("name", ["afno_small_f1", "afno_small_f05"])
def test_fourcastnet(name: str) -> None:
    golden = FieldGolden(name)
    model = fourcastnet(golden)
    model.load_state_dict(golden.weights())
    check_model(model, golden, 1e-4)
    out = model(golden.input("x"))
    golden.check("out", out, 1e-4)
    check_gradients(model, out, golden.input("cotangent"), golden)


def test_physicsnemo() -> None:
    golden = FieldGolden("afno_physicsnemo")
    c = golden.config
    model = AFNONet(
        img_size=tuple(c["inp_shape"]),
        patch_size=tuple(c["patch_size"]),
        final_norm=False,
        **{
            key: c[key]
            for key in (
                "out_channels",
                "in_channels",
                "embed_dim",
                "depth",
                "num_blocks",
                "hard_thresholding_fraction",
                "sparsity_threshold",
                "mlp_ratio",
            )
            if not key.endswith("channels")
        },
        in_chans=c["in_channels"],
        out_chans=c["out_channels"],
    ).eval()
    model.load_state_dict(golden.weights())
    check_model(model, golden, 1e-4)
    out = model(golden.input("x"))
    check_gradients(model, out, golden.input("cotangent"), golden)


def test_precipitation() -> None:
    golden = FieldGolden("afno_precip")
    model = PrecipNet(fourcastnet(golden)).eval()
    model.load_state_dict(golden.weights())
    x = golden.input("x")
    with torch.no_grad():
        golden.check("backbone_out", model.backbone(x), 1e-4)
        golden.check("out", model(x), 1e-4)


@pytest.mark.slow
def test_fourcastnet_at_full_size() -> None:
    golden = FieldGolden("afno_full")
    model = fourcastnet(golden)
    model.load_state_dict(golden.weights())
    check_model(model, golden, 1e-3)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_layers_of_afno_transformer(number: int) -> None:
    golden = FieldGolden("afno_layers_transformer")
    case = golden.config["cases"][number]
    prefix = f"c{number}/"
    settings = (case["C"], case["nb"], case["sp"], case["frac"], case["hf"])
    names = ("hidden_size", "num_blocks", "sparsity_threshold", "hard_thresholding_fraction")
    keys = dict(zip((*names, "hidden_size_factor"), settings, strict=True))
    layer = AFNO1D(**keys) if case["kind"] == "1d" else AFNO2D(**keys, modes="transformer")
    layer.load_state_dict(golden.layer_weights(prefix))
    x = golden.input(f"{prefix}x").requires_grad_()
    shape = x.shape if case["kind"] == "1d" else (case["B"], *case["hw"], case["C"])
    out = layer(x.view(shape)).view(x.shape)
    golden.check(f"{prefix}out", out, 1e-4)
    (out * golden.input(f"{prefix}cotangent", tuple(out.shape))).sum().backward()
    # The recorded gradient of the input is the sum of the recorder's three backward passes.
    golden.check_relative(f"{prefix}grad/x", 3 * x.grad, 1e-4)
    for key, parameter in layer.named_parameters():
        golden.check_relative(f"{prefix}grad/{key}", parameter.grad, 1e-4)
