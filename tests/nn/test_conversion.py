"""Modes, casts, moves and gradients of a whole tree."""

import copy
import pickle

import pytest
import torch

from cupola import nn


def tied() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    model[2].weight = model[0].weight
    return model


def test_modes_apply_to_the_whole_tree_and_return_it() -> None:
    model = tied()
    assert model.eval() is model
    assert not any(module.training for module in model.modules())
    assert model.train() is model
    assert all(module.training for module in model.modules())
    with pytest.raises(ValueError, match="expected to be boolean"):
        model.train(1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "layer",
    [
        nn.RReLU(),
        nn.Dropout(),
        nn.Dropout1d(),
        nn.Dropout2d(),
        nn.Dropout3d(),
        nn.AlphaDropout(),
        nn.FeatureAlphaDropout(),
        nn.DropPath(0.5),
        nn.BatchNorm3d(4),
        nn.BatchNorm3d(4, momentum=None),
        nn.InstanceNorm3d(4, track_running_stats=True),
    ],
    ids=repr,
)
def test_what_these_layers_do_depends_on_the_mode(layer: nn.Module) -> None:
    x = torch.randn(3, 4, 2, 3, 3)
    x = x.flatten(2) if "1d" in repr(layer) else x.flatten(3) if "2d" in repr(layer) else x
    torch.manual_seed(0)
    trained = layer.train()(x)
    assert not torch.equal(trained, layer.eval()(x))
    assert torch.equal(layer(x), layer(x))


def test_batch_norm_without_momentum_averages_all_batches() -> None:
    norm = nn.BatchNorm1d(1, momentum=None)
    norm(torch.tensor([[0.0], [2.0]]))
    norm(torch.tensor([[2.0], [4.0]]))
    assert norm.running_mean.item() == pytest.approx(2.0)


def test_casts_touch_floating_tensors_and_keep_ties() -> None:
    model = tied()
    weight = model[0].weight
    for cast, dtype in (("double", torch.float64), ("half", torch.float16)):
        assert getattr(model, cast)() is model
        assert model[0].weight is model[2].weight is weight
        assert weight.dtype == dtype
        assert model[1].num_batches_tracked.dtype == torch.int64
    assert model.bfloat16()[0].bias.dtype == torch.bfloat16
    assert model.float()[1].running_mean.dtype == torch.float32
    model.type(torch.float64)
    assert model[1].num_batches_tracked.dtype == torch.float64


def test_to_moves_casts_and_lays_out() -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 3), nn.Linear(2, 2))
    model.to(torch.float64).to(memory_format=torch.channels_last).cpu()
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert model[1].weight.dtype == torch.float64
    with pytest.raises(TypeError, match="only accepts floating point or complex"):
        model.to(torch.int64)
    with pytest.warns(UserWarning, match="Complex modules"):
        model.to(torch.complex64)


def test_gradients_follow() -> None:
    model = tied()
    model(torch.randn(3, 2)).sum().backward()
    model.double()
    assert all(p.grad is not None and p.grad.dtype == torch.float64 for p in model.parameters())
    model.zero_grad(set_to_none=False)
    assert not any(p.grad.any() for p in model.parameters())
    model.zero_grad()
    assert all(p.grad is None for p in model.parameters())
    weight = model[0].weight
    weight.grad = weight * 2  # as after backward(create_graph=True)
    model.zero_grad(set_to_none=False)
    assert weight.grad.grad_fn is None


def test_requires_grad_applies_to_the_whole_tree() -> None:
    model = tied()
    assert model.requires_grad_(False) is model
    assert not any(p.requires_grad for p in model.parameters())


def test_meta_tensors_need_to_empty() -> None:
    model = tied().to("meta")
    assert model[0].weight is model[2].weight
    with pytest.raises(NotImplementedError, match=r"Please use torch.nn.Module.to_empty\(\)"):
        model.to("cpu")
    model.to_empty(device="cpu")
    assert model[0].weight.device.type == "cpu"
    model.to_empty(device="meta", recurse=False)
    assert model[0].weight.device.type == "cpu"


@pytest.mark.parametrize("flag", ["swap_module_params", "overwrite_module_params"])
def test_torchs_switches_for_conversion_are_honored(flag: str) -> None:
    setter = getattr(torch.__future__, f"set_{flag}_on_conversion")
    model = tied()
    model(torch.randn(3, 2)).sum().backward()
    weight = model[0].weight
    setter(True)
    try:
        model.double()
    finally:
        setter(False)
    assert (model[0].weight is weight) == (flag == "swap_module_params")
    assert model[0].weight.dtype == model[0].weight.grad.dtype == torch.float64


def test_a_failed_swap_names_the_parameter() -> None:
    import weakref

    model = nn.Linear(2, 2)
    model(torch.randn(1, 2)).sum().backward()
    keep = weakref.ref(model.weight)
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        with pytest.raises(RuntimeError, match=r"_apply\(\): Couldn't swap Linear.weight"):
            model.double()
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    assert keep() is not None
    assert model.weight.grad is not None


def test_share_memory() -> None:
    model = nn.Linear(2, 2).share_memory()
    assert model.weight.is_shared()


def test_copies_and_pickles_keep_ties_and_modes() -> None:
    model = tied().eval()
    model.note = {"a": 1}
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin[0].weight is twin[2].weight
        assert twin[0].weight is not model[0].weight
        assert not twin[1].training
        assert twin.note == model.note
        assert list(twin.state_dict()) == list(model.state_dict())


def test_a_shallow_replica_leaves_the_original_alone() -> None:
    model = nn.Linear(2, 2)
    replica = model._replicate_for_data_parallel()
    replica._parameters["other"] = nn.Parameter(torch.zeros(1))
    assert [name for name, _ in model.named_parameters()] == ["weight", "bias"]
    assert [name for name, _ in replica.named_parameters()] == ["other"]
