"""AFNONet, PrecipNet, FNO and the classifier: shapes, grids, losses, errors."""

import pytest
import torch

from cupola.errors import BuildError, InputError
from cupola.models.afno import FNO, AFNOClassifier, AFNONet, AFNOSettings, FieldOperator, PrecipNet
from cupola.models.afno.mlp import Mlp, SlicedMlp
from cupola.models.afno.precipitation import PeriodicPad2d, log_precipitation, precipitation

SMALL = {
    "img_size": (8, 16),
    "patch_size": 4,
    "in_chans": 3,
    "out_chans": 2,
    "embed_dim": 16,
    "depth": 2,
    "num_blocks": 4,
}


def test_published_size() -> None:
    with torch.device("meta"):
        model = AFNONet()
    assert sum(p.numel() for p in model.parameters()) == 74_691_840


def test_features_and_head_can_be_called_separately() -> None:
    model = AFNONet(**SMALL)
    x = torch.randn(2, 3, 8, 16)
    features = model.forward_features(x)
    assert features.shape == (2, 2, 4, 16)
    assert model.head(features).shape == (2, 2, 4, 32)
    torch.testing.assert_close(model.unpatch(model.head(features)), model(x))


def test_inference_equals_training_arithmetic() -> None:
    model = AFNONet(**SMALL).eval()
    x = torch.randn(2, 3, 8, 16)
    before = x.clone()
    with torch.no_grad():
        fast = model(x)
    torch.testing.assert_close(fast, model(x), atol=1e-5, rtol=1e-5)
    assert torch.equal(x, before)


@pytest.mark.parametrize("double_skip", [True, False])
def test_slicing_the_mlp_does_not_change_the_result(
    double_skip: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = AFNONet(**SMALL, double_skip=double_skip).eval()
    x = torch.randn(3, 3, 8, 16)
    with torch.no_grad():
        whole = model(x)
        monkeypatch.setattr("cupola.models.afno.layers.SLICE", 5)
        monkeypatch.setattr("cupola.models.afno.mlp.SLICE", 5)
        torch.testing.assert_close(model(x), whole)


def test_gradients_of_the_sliced_mlp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cupola.models.afno.mlp.SLICE", 3)
    mlp = Mlp(4, 8)
    for parameter in mlp.parameters():
        parameter.data = parameter.data.double()
    x = torch.randn(2, 4, 4, dtype=torch.float64, requires_grad=True)
    weights = [mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight, mlp.fc2.bias]
    assert torch.autograd.gradcheck(
        lambda *args: SlicedMlp.apply(*args), (x.flatten(0, 1), *weights)
    )
    torch.testing.assert_close(mlp(x), mlp._plain(x))


def test_dropout_is_applied_in_slices() -> None:
    mlp = Mlp(4, 8, drop=1.0)
    assert torch.equal(mlp(torch.randn(5, 4)), torch.zeros(5, 4))


def test_grids_that_do_not_divide() -> None:
    with pytest.raises(BuildError, match="9 x 16 does not divide into patches of 4 x 4"):
        AFNONet(**SMALL | {"img_size": (9, 16)})
    padded = AFNONet(**SMALL | {"img_size": (9, 15)}, pad=True)
    assert padded(torch.randn(1, 3, 9, 15)).shape == (1, 2, 9, 15)


def test_other_grids() -> None:
    x = torch.randn(1, 3, 16, 32)
    with pytest.raises(InputError, match=r"built for a grid of 8 x 16, got 16 x 32.*any_grid"):
        AFNONet(**SMALL)(x)
    assert AFNONet(**SMALL, any_grid=True)(x).shape == (1, 2, 16, 32)
    with pytest.raises(InputError, match=r"takes \[B, 3, H, W\], got \[1, 4, 8, 16\]"):
        AFNONet(**SMALL)(torch.randn(1, 4, 8, 16))


def test_unknown_settings_are_an_error() -> None:
    with pytest.raises(BuildError, match=r"no setting 'embed_dims'; did you mean 'embed_dim'"):
        AFNOSettings.of(embed_dims=3)


def test_rollout_keeps_forcings_fixed_and_sums_the_steps() -> None:
    model = AFNONet(**SMALL, residual=True)
    x, y = torch.randn(2, 3, 8, 16), torch.randn(2, 2, 2, 8, 16)
    states = list(model.rollout(x, 2))
    again = model(torch.cat([states[0], x[:, 2:]], dim=1))
    torch.testing.assert_close(states[1], again)
    losses = model.loss({"x": x, "y": y})
    assert list(losses) == ["loss_step1", "loss_step2"]
    sum(losses.values()).backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if n[:5] != "norm.")
    assert [p.shape for p in model.predict({"x": x, "y": y})] == [(2, 2, 8, 16)] * 2


def test_bfloat16_mlp_stays_close() -> None:
    model = AFNONet(**SMALL).eval()
    narrow = AFNONet(**SMALL, mlp_dtype="bfloat16").eval()
    narrow.load_state_dict(model.state_dict())
    x = torch.randn(1, 3, 8, 16)
    with torch.no_grad():
        torch.testing.assert_close(narrow(x), model(x), atol=2e-2, rtol=2e-2)


def test_precipitation_is_never_negative_and_its_backbone_can_be_frozen() -> None:
    backbone = {"type": "AFNONet", **SMALL, "out_chans": 1}
    wind = {"type": "AFNONet", **SMALL, "out_chans": 3}
    model = PrecipNet(backbone, wind, freeze_backbone=True)
    out = model(torch.randn(1, 3, 8, 16))
    assert out.min() >= 0
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"conv.weight", "conv.bias"}
    meters = torch.tensor([0.0, 1e-5, 0.02])
    torch.testing.assert_close(precipitation(log_precipitation(meters)), meters)


def test_periodic_padding_wraps_longitude_only() -> None:
    x = torch.arange(6.0).view(1, 1, 2, 3)
    expected = [[0, 0, 0, 0, 0], [2, 0, 1, 2, 0], [5, 3, 4, 5, 3], [0, 0, 0, 0, 0]]
    assert PeriodicPad2d(1)(x)[0, 0].tolist() == expected


@pytest.mark.parametrize("grid", [(16, 16), (20, 32)])
def test_fno_takes_any_grid_with_enough_modes(grid: tuple[int, int]) -> None:
    model = FNO(2, 1, modes=(6, 5), width=8, depth=2)
    assert isinstance(model, FieldOperator)
    assert model(torch.randn(2, 2, *grid)).shape == (2, 1, *grid)
    with pytest.raises(InputError, match="8 x 8 has fewer modes than 12 x 5"):
        model(torch.randn(2, 2, 8, 8))


def test_fno_is_the_same_operator_on_a_finer_grid() -> None:
    model = FNO(1, 1, modes=4, width=8, depth=2, coordinates=False)
    angle = torch.arange(32) * (2 * torch.pi / 32)
    fine = (torch.sin(angle)[:, None] + torch.cos(2 * angle))[None, None]
    torch.testing.assert_close(model(fine)[..., ::2, ::2], model(fine[..., ::2, ::2]))


def test_classifier() -> None:
    model = AFNOClassifier(5, **SMALL)
    batch = {"pixels": torch.randn(2, 3, 8, 16), "labels": torch.tensor([0, 4])}
    assert model(batch["pixels"]).shape == (2, 5)
    assert model.loss(batch)["loss"].ndim == 0
    assert len(model.predict(batch)) == 2


def test_patches_are_put_together_alike_with_and_without_gradients() -> None:
    model = AFNONet(img_size=(6, 20), patch_size=(2, 4), embed_dim=8, num_blocks=2, depth=1)
    patches = torch.randn(2, 3, 5, 2 * 4 * 20)
    with torch.no_grad():
        found = model.unpatch(patches)
    assert torch.equal(found, model.unpatch(patches))
    assert torch.equal(found[1, 7, 2:4, 4:8], patches[1, 1, 1].view(2, 4, 20)[..., 7])
