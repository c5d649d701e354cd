"""state_dict and load_state_dict: keys, order, metadata, strictness, hooks, atomicity."""

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch

from cupola import nn


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 1))


def values(module: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert list(a) == list(b)
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_saving_gives_detached_tensors_in_torchs_order_with_versions() -> None:
    ours = model()
    state = ours.state_dict(prefix="net.")
    assert isinstance(state, OrderedDict)
    theirs = torch.nn.Sequential(
        torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3), torch.nn.ReLU(), torch.nn.Linear(3, 1)
    ).state_dict(prefix="net.")
    assert list(state) == list(theirs)
    assert state._metadata == theirs._metadata
    assert not state["net.0.weight"].requires_grad
    assert ours.state_dict(keep_vars=True)["0.weight"] is ours[0].weight
    assert state["net.0.weight"].data_ptr() == ours[0].weight.data_ptr()


def test_saving_into_a_given_dictionary_and_by_position() -> None:
    mine: dict[str, Any] = {}
    assert model().state_dict(destination=mine) is mine
    assert len(mine) == 9
    with pytest.warns(FutureWarning, match="Positional args"):
        assert "p.0.weight" in model().state_dict({}, "p.")


def test_loading_copies_and_reports() -> None:
    source, target = model(), model()
    weight = target[0].weight
    report = target.load_state_dict(source.state_dict())
    assert str(report) == "<All keys matched successfully>"
    assert target[0].weight is weight
    assert_equal(values(target), values(source))
    with pytest.raises(TypeError, match="Expected state_dict to be dict-like, got <class 'list'>"):
        target.load_state_dict([])


def test_what_does_not_fit_is_named_and_nothing_changes() -> None:
    source, target = model().state_dict(), model()
    before = values(target)
    del source["3.bias"]
    source["3.weight"] = torch.zeros(2, 2)
    source["4.what"] = torch.zeros(1)
    source["0.weight.deeper"] = torch.zeros(1)
    with pytest.raises(RuntimeError) as error:
        target.load_state_dict(source)
    assert str(error.value) == (
        "Error(s) in loading state_dict for Sequential:\n"
        '\tMissing key(s) in state_dict: "3.bias". \n'
        '\tUnexpected key(s) in state_dict: "4.what", "0.weight.deeper". \n'
        "\tsize mismatch for 3.weight: copying a param with shape torch.Size([2, 2]) from "
        "checkpoint, the shape in current model is torch.Size([1, 3])."
    )
    with pytest.raises(RuntimeError, match=r"size mismatch for 3\.weight"):
        target.load_state_dict(source, strict=False)
    assert_equal(values(target), before)  # torch has overwritten the earlier keys by now


def test_without_strict_the_rest_is_loaded() -> None:
    source, target = model(), model()
    state = source.state_dict()
    del state["3.bias"]
    state["extra"] = torch.zeros(1)
    report = target.load_state_dict(state, strict=False)
    assert report.missing_keys == ["3.bias"]
    assert report.unexpected_keys == ["extra"]
    assert torch.equal(target[0].weight, source[0].weight)


def test_values_that_are_no_tensors_are_refused() -> None:
    with pytest.raises(RuntimeError, match=r"expected torch.Tensor or Tensor-like object"):
        nn.Linear(1, 1).load_state_dict({"weight": np.zeros((1, 1)), "bias": torch.zeros(1)})


def test_a_scalar_takes_a_tensor_of_one_element() -> None:
    module = nn.Module()
    module.scale = nn.Parameter(torch.zeros(()))
    module.load_state_dict({"scale": torch.ones(1)})
    assert module.scale.item() == 1


def test_assign_takes_the_tensors_and_keeps_requires_grad() -> None:
    target = nn.Linear(2, 2, dtype=torch.float16)
    target.bias.requires_grad_(False)
    state = {"weight": torch.randn(2, 2), "bias": nn.Parameter(torch.randn(2))}
    target.load_state_dict(state, assign=True)
    assert target.weight.data_ptr() == state["weight"].data_ptr()
    assert target.weight.requires_grad
    assert target.weight.dtype == torch.float32
    assert not target.bias.requires_grad
    assert state["bias"].requires_grad  # torch switches it off in the caller's state
    same = nn.Parameter(torch.randn(2, 2))
    target.load_state_dict({"weight": same}, strict=False, assign=True)
    assert target.weight is same


def test_assign_keeps_ties() -> None:
    target = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    target[1].weight = target[0].weight
    state = {key: value.clone() for key, value in target.state_dict().items()}
    state["1.weight"] = torch.ones(2, 2)
    target.load_state_dict(state, assign=True)
    assert target[0].weight is target[1].weight
    assert target[0].weight.sum() == 4  # as with copies, the last one wins


def test_loading_never_changes_what_it_is_given() -> None:
    state = model().state_dict()
    metadata = {path: dict(entry) for path, entry in state._metadata.items()}
    model().load_state_dict(state, assign=True)
    assert state._metadata == metadata  # torch leaves assign_to_params_buffers in there
    assert len(state) == 9


def test_a_meta_parameter_warns_that_a_copy_does_nothing() -> None:
    target = nn.Linear(1, 1, device="meta", bias=False)
    with pytest.warns(UserWarning, match="for weight: copying from a non-meta parameter"):
        target.load_state_dict({"weight": torch.zeros(1, 1)})


def test_a_copy_out_of_a_meta_tensor_is_named_and_nothing_changes() -> None:
    target = nn.Linear(2, 2)
    before = values(target)
    state = {"weight": torch.zeros(2, 2), "bias": torch.zeros(2, device="meta")}
    with pytest.raises(RuntimeError, match=r'parameter named "bias".*no data!'):
        target.load_state_dict(state)
    assert_equal(values(target), before)


def test_a_copy_that_fails_for_another_reason_is_named() -> None:
    target = nn.Linear(2, 2, bias=False)
    with pytest.raises(RuntimeError, match='While copying the parameter named "weight"'):
        target.load_state_dict({"weight": torch.ones(2, 2).to_sparse()})


@pytest.mark.parametrize("assign", [True, False])
def test_swapping(assign: bool) -> None:
    source, target = model(), model()
    weight = target[0].weight
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        target.load_state_dict(values(source), assign=assign)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    assert target[0].weight is weight
    assert_equal(values(target), values(source))


class Broken(torch.Tensor):
    """A tensor whose module_load returns what it must not."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.module_load:
            return args[1]
        return super().__torch_function__(func, types, args, kwargs or {})


def test_a_swap_that_returns_its_input_is_an_error() -> None:
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        with pytest.raises(RuntimeError, match="module_load returned one of self or other"):
            nn.Linear(1, 1, bias=False).load_state_dict({"weight": Broken(torch.zeros(1, 1))})
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def get_extra_state(self) -> int:
        return self.count

    def set_extra_state(self, state: int) -> None:
        self.count = state


def test_extra_state() -> None:
    source, target = nn.Sequential(Counter()), nn.Sequential(Counter())
    source[0].count = 5
    assert source.state_dict()["0._extra_state"] == 5
    target.load_state_dict(source.state_dict())
    assert target[0].count == 5
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "0._extra_state"'):
        target.load_state_dict({})
    with pytest.raises(RuntimeError, match=r'Unexpected key\(s\) in state_dict: "_extra_state"'):
        nn.ReLU().load_state_dict({"_extra_state": 1})
    with pytest.raises(RuntimeError, match="should never be called"):
        nn.ReLU().get_extra_state()
    with pytest.raises(RuntimeError, match="should never be called"):
        nn.ReLU().set_extra_state(1)


class Holder(nn.Module):
    """Its extra state is anything, also a module that further keys belong to."""

    def __init__(self, held: Any) -> None:
        super().__init__()
        self.held = held

    def get_extra_state(self) -> Any:
        return self.held

    def set_extra_state(self, state: Any) -> None:
        del self.held
        self.held = state


def test_an_extra_state_may_bring_the_children_that_other_keys_name() -> None:
    source, target = Holder(Holder(3)), Holder("nothing yet")
    target.load_state_dict(source.state_dict())
    assert target.held is source.held
    state, target = source.state_dict() | {"what": torch.ones(1)}, Holder("nothing yet")
    with pytest.raises(RuntimeError, match='"what"'):
        target.load_state_dict(state)
    assert target.held == "nothing yet"


def test_batch_norm_from_before_version_2_gets_its_count() -> None:
    norm = nn.BatchNorm1d(2)
    state = norm.state_dict()
    del state["num_batches_tracked"]
    with pytest.raises(RuntimeError, match="num_batches_tracked"):
        nn.BatchNorm1d(2).load_state_dict(state)
    state._metadata[""]["version"] = 1
    nn.BatchNorm1d(2).load_state_dict(state)
    assert nn.BatchNorm1d(2).load_state_dict(dict(state)).missing_keys == []
    late = nn.BatchNorm1d(2, device="meta")
    late.load_state_dict(dict(state), assign=True)
    assert late.num_batches_tracked.item() == 0


def test_instance_norm_names_statistics_that_it_does_not_track() -> None:
    state = dict(nn.InstanceNorm1d(2, track_running_stats=True).state_dict())
    del state["num_batches_tracked"]
    with pytest.raises(RuntimeError, match=r'"running_mean" and "running_var" for InstanceNorm1d'):
        nn.InstanceNorm1d(2).load_state_dict(state)


def test_saving_hooks() -> None:
    module, seen = model(), []
    module[0].register_state_dict_pre_hook(lambda m, prefix, keep: seen.append((prefix, keep)))
    module[0].register_state_dict_post_hook(lambda m, state, prefix, meta: state.pop("0.bias"))
    module.register_state_dict_post_hook(lambda m, state, prefix, meta: None)
    with pytest.raises(RuntimeError, match="post-hook must return None"):
        module.state_dict()
    module[0]._state_dict_hooks.clear()
    module._register_state_dict_hook(lambda m, state, prefix, meta: {"replaced": meta})
    assert module.state_dict() == {"replaced": {"version": 1}}
    assert seen == [("0.", False)] * 2

    def public(*args: Any) -> None: ...

    module.register_state_dict_post_hook(public)
    with pytest.raises(RuntimeError, match="Cannot register the same function"):
        module._register_state_dict_hook(public)


def test_loading_hooks_see_their_part_parents_first_then_children_first() -> None:
    module, order = model(), []

    def before(m: nn.Module, state: Any, prefix: str, meta: Any, strict: bool, *keys: Any) -> None:
        order.append((prefix, len(state), strict, meta["version"]))

    module.register_load_state_dict_pre_hook(before)
    module[0].register_load_state_dict_pre_hook(before)
    module[1]._register_load_state_dict_pre_hook(lambda *args: order.append(args[1]))
    module.register_load_state_dict_post_hook(lambda m, keys: order.append("root"))
    module[0].register_load_state_dict_post_hook(lambda m, keys: order.append("child"))
    module.load_state_dict(module.state_dict())
    assert order == [("", 9, True, 1), ("0.", 2, True, 1), "1.", "child", "root"]


def test_a_pre_hook_may_rename_keys() -> None:
    module = model()
    state = {key.replace("0.weight", "0.kernel"): v for key, v in values(model()).items()}

    def rename(m: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        state[prefix + "weight"] = state.pop(prefix + "kernel")

    module[0].register_load_state_dict_pre_hook(rename)
    module.load_state_dict(state)
    assert torch.equal(module[0].weight, state["0.kernel"])


def test_unexpected_keys_are_found_below_a_module_with_hooks_too() -> None:
    module = nn.Sequential(model(), nn.Sequential(nn.Linear(1, 1)))
    state = values(module) | {"1.0.scale": torch.ones(1), "0.1.more": torch.ones(1)}
    module.register_load_state_dict_pre_hook(lambda *args: None)
    report = module.load_state_dict(state, strict=False)
    assert report.unexpected_keys == ["0.1.more", "1.0.scale"]


def test_unexpected_keys_are_listed_by_the_module_that_lacks_them() -> None:
    found = []
    for library in (torch.nn, nn):
        module = library.Sequential(library.Linear(1, 1), library.BatchNorm1d(1))
        state = {key: torch.ones(1) for key in ("1.k", "0.k", "0.weight.k", "2.k", "k", ".k")}
        found.append(module.load_state_dict(state, strict=False).unexpected_keys)
    assert found[0] == found[1] == ["2.k", "k", ".k", "0.k", "0.weight.k", "1.k"]


def test_keys_of_an_empty_slot_are_passed_over() -> None:
    module = nn.Sequential(nn.Linear(1, 1))
    module.add_module("head", None)
    module.load_state_dict(values(module) | {"head.weight": torch.ones(1)})


def test_a_post_hook_may_excuse_keys_after_it_has_seen_the_tensors() -> None:
    module, state = model(), {}
    seen: list[bool] = []
    state = values(model())
    del state["3.bias"]

    def excuse(m: nn.Module, keys: Any) -> None:
        seen.append(torch.equal(m[0].weight, state["0.weight"]))
        keys.missing_keys.clear()

    handle = module.register_load_state_dict_post_hook(excuse)
    assert module.load_state_dict(state).missing_keys == []
    assert seen == [True]
    handle.remove()
    before = values(module)
    module.register_load_state_dict_post_hook(lambda m, keys: keys.unexpected_keys.append("bar"))
    for assign in (False, True):
        with pytest.raises(RuntimeError, match=r'"3.bias".*\n.*"bar"'):
            module.load_state_dict(state, assign=assign)
        assert_equal(values(module), before)


def test_a_post_hook_returns_nothing() -> None:
    module = nn.ReLU()
    module.register_load_state_dict_post_hook(lambda m, keys: 1)
    with pytest.raises(AssertionError, match="not expected to return new values"):
        module.load_state_dict({})


def test_a_module_loads_itself_alone() -> None:
    module, source = nn.Linear(2, 2), nn.Linear(2, 2)
    missing: list[str] = []
    module._load_from_state_dict(source.state_dict(), "", {}, True, missing, [], [])
    assert torch.equal(module.weight, source.weight)
    module._load_from_state_dict({}, "p.", {}, False, missing, [], [])
    assert missing == []


def test_torch_children_load_too() -> None:
    ours = nn.Sequential(torch.nn.Linear(1, 2), torch.nn.Sequential(nn.to_torch(nn.Linear(2, 1))))
    state = {key: torch.ones_like(value) for key, value in ours.state_dict().items()}
    ours.load_state_dict(state)
    assert_equal(values(ours), state)


def test_a_state_loads_on_another_dtype() -> None:
    target = nn.Linear(2, 2)
    target.load_state_dict(nn.Linear(2, 2).double().state_dict())
    assert target.weight.dtype == torch.float32
