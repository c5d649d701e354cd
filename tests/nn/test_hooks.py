"""Hooks: order, arguments, replacement, removal, and the handling of exceptions."""

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.nn.modules import module as torch_module

from cupola import nn


@pytest.fixture(autouse=True)
def no_global_hooks() -> Iterator[None]:
    yield
    for name in ("forward", "forward_pre", "backward", "backward_pre"):
        getattr(torch_module, f"_global_{name}_hooks").clear()
    torch_module._global_is_full_backward_hook = None


class Add(nn.Module):
    def forward(self, x: torch.Tensor, y: Any = 0) -> torch.Tensor:
        if isinstance(y, str):
            raise ValueError("no")
        return x + y


ONE = torch.ones(1)


def test_order_global_before_local_and_prepended_first() -> None:
    module, order = Add(), []

    def note(name: str) -> Any:
        return lambda *args: order.append(name)

    module.register_forward_pre_hook(note("pre 1"))
    module.register_forward_pre_hook(note("pre 0"), prepend=True)
    module.register_forward_hook(note("post 1"))
    module.register_forward_hook(note("post 0"), prepend=True)
    nn.register_module_forward_pre_hook(note("global pre"))
    nn.register_module_forward_hook(note("global post"))
    module(ONE)
    assert order == ["global pre", "pre 0", "pre 1", "global post", "post 0", "post 1"]


def test_hooks_of_torch_see_our_modules_and_ours_see_torchs() -> None:
    seen: list[Any] = []
    nn.register_module_forward_hook(lambda m, a, o: seen.append(type(m)))
    torch_module.register_module_forward_pre_hook(lambda m, a: seen.append(type(m)))
    nn.Sequential(torch.nn.ReLU())(ONE)
    assert seen == [nn.Sequential, torch.nn.ReLU, torch.nn.ReLU, nn.Sequential]


def test_hooks_replace_arguments_and_output() -> None:
    module = Add()
    module.register_forward_pre_hook(lambda m, args: args[0] * 2)
    module.register_forward_pre_hook(lambda m, args: (args[0], 5))
    module.register_forward_hook(lambda m, args, out: out * 10)
    assert module(ONE).item() == 70


def test_hooks_with_kwargs() -> None:
    module = Add()
    module.register_forward_pre_hook(lambda m, a, k: (a, {"y": k["y"] * 2}), with_kwargs=True)
    module.register_forward_pre_hook(lambda m, a, k: None, with_kwargs=True)
    module.register_forward_hook(lambda m, a, k, out: out + k["y"], with_kwargs=True)
    assert module(ONE, y=3).item() == 13
    module.register_forward_pre_hook(lambda m, a, k: a, with_kwargs=True)
    with pytest.raises(RuntimeError, match=r"None or a tuple of \(new_args, new_kwargs\)"):
        module(ONE, y=3)


def test_always_called_hooks_run_once_after_an_exception() -> None:
    module, seen = Add(), []
    module.register_forward_hook(lambda m, a, o: seen.append("never"))
    module.register_forward_hook(lambda m, a, o: seen.append("local"), always_call=True)
    nn.register_module_forward_hook(
        lambda m, a, k, o: seen.append(("global", k)), with_kwargs=True, always_call=True
    )
    with pytest.raises(ValueError, match="no"):
        module(ONE, y="x")
    assert seen == [("global", {"y": "x"}), "local"]  # torch forgets the kwargs of the global one
    seen.clear()
    module(ONE)
    assert seen == [("global", {}), "never", "local"]


def test_an_always_called_hook_that_fails_is_not_run_again_and_warns_once() -> None:
    module, calls = Add(), []

    def fail(*args: Any) -> None:
        calls.append(args)
        raise KeyError("hook")

    module.register_forward_hook(fail, always_call=True)
    with pytest.raises(KeyError):
        module(ONE)
    assert len(calls) == 1
    with (
        pytest.warns(UserWarning, match="raised an exception that was silenced"),
        pytest.raises(ValueError, match="no"),
    ):
        module(ONE, "x")


def test_removal_in_all_its_forms() -> None:
    module, seen = Add(), []
    with module.register_forward_hook(lambda *a: seen.append(1), with_kwargs=True):
        module(ONE)
    module(ONE)
    assert seen == [1]
    assert not module._forward_hooks_with_kwargs

    def once(*args: Any) -> None:
        seen.append(2)
        handle.remove()

    handle = module.register_forward_hook(once)
    module(ONE)
    module(ONE)
    assert seen == [1, 2]


def noop(*args: Any) -> None:
    """Do nothing; at module level, so that it can be pickled."""


def test_handles_survive_copies_and_pickles() -> None:
    module = nn.Linear(1, 1)
    handle = module.register_forward_hook(noop, always_call=True)
    module2, handle2 = copy.deepcopy((module, handle))
    handle2.remove()
    assert len(module._forward_hooks) == 1
    assert not module2._forward_hooks
    module3, handle3 = pickle.loads(pickle.dumps((module, handle)))
    handle3.remove()
    assert not module3._forward_hooks
    del module3
    handle3.remove()  # the module is gone; nothing to do


def backward(module: nn.Module, x: torch.Tensor) -> None:
    module(x).sum().backward()


def test_full_backward_hooks_see_and_replace_gradients() -> None:
    module, seen = nn.Sigmoid(), []
    module.register_full_backward_pre_hook(lambda m, go: (go[0] * 2,))
    module.register_full_backward_hook(lambda m, gi, go: seen.append((len(gi), go[0].item())))
    module.register_full_backward_hook(lambda m, gi, go: (gi[0] * 0,), prepend=True)
    x = torch.zeros(1, requires_grad=True)
    backward(module, x)
    assert seen == [(1, 2.0)]
    assert x.grad is not None
    assert x.grad.item() == 0


def test_full_backward_hooks_without_a_gradient_to_give() -> None:
    module, seen = nn.Linear(2, 2), []
    module.register_full_backward_hook(lambda m, gi, go: seen.append(gi))
    with pytest.warns(UserWarning, match="inputs don't require|no input"):
        backward(module, torch.zeros(1, 2))
    assert seen == [(None,)]


def test_full_backward_hooks_check_what_is_returned() -> None:
    x = torch.zeros(1, requires_grad=True)
    module = nn.Sigmoid()
    with (
        module.register_full_backward_hook(lambda m, gi, go: gi + gi),
        pytest.raises(RuntimeError, match="got 2, but expected 1"),
    ):
        backward(module, x)
    module.register_full_backward_pre_hook(lambda m, go: ())
    with pytest.raises(RuntimeError, match="got 0, but expected 1"):
        backward(module, x)


def test_outputs_that_backward_hooks_cannot_follow_warn() -> None:
    class Wrap(nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"x": x * 2}

    module = Wrap()
    module.register_full_backward_hook(noop)
    with pytest.warns(UserWarning, match="should be a Tensor or a tuple of Tensors"):
        module(torch.zeros(1, requires_grad=True))


def test_global_backward_hooks_come_first() -> None:
    module, order = nn.Sigmoid(), []
    module.register_full_backward_hook(lambda *a: order.append("local"))
    nn.register_module_full_backward_hook(lambda *a: order.append("global"))
    nn.register_module_full_backward_pre_hook(lambda *a: order.append("global pre"))
    backward(module, torch.zeros(1, requires_grad=True))
    assert order == ["global pre", "global", "local"]


def test_the_legacy_kind() -> None:
    module, seen = nn.Sigmoid(), []
    module.register_backward_hook(lambda m, gi, go: seen.append(go[0].item()))
    nn.register_module_backward_hook(lambda *a: seen.append("global"))
    backward(module, torch.zeros(1, requires_grad=True) * 1)
    assert seen == ["global", 1.0]
    with pytest.raises(RuntimeError, match="Cannot use both regular backward hooks and full"):
        module.register_full_backward_hook(noop)
    other = nn.Sigmoid()
    other.register_full_backward_hook(noop)
    with pytest.raises(RuntimeError, match="Cannot use both regular backward hooks and full"):
        other.register_backward_hook(noop)


class Nested(nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, list[torch.Tensor]]:
        return {"a": [x * 2], "b": x * 3} if x.requires_grad else {"b": x}


def test_the_legacy_kind_finds_a_tensor_in_the_output_and_says_what_it_misses() -> None:
    module, seen = Nested(), []
    module.register_backward_hook(lambda m, gi, go: seen.append(1))
    with pytest.warns(FutureWarning, match="does not return a single Tensor or a tuple"):
        module(torch.zeros(1, requires_grad=True))["b"].sum().backward()
    assert seen == [1]
    module(torch.zeros(1))


def test_looking_at_a_table_makes_it_and_costs_nothing_else() -> None:
    module = nn.ReLU()
    assert "_forward_hooks" not in module.__dict__
    assert len(module._forward_hooks) == 0
    module._forward_hooks[7] = lambda m, a, o: o + 1  # as old code does
    assert module(ONE).item() == 2
    assert isinstance(nn.Module._forward_hooks, object)


def test_a_table_may_be_deleted_whether_it_exists_or_not() -> None:
    module = nn.ReLU()
    module.register_forward_hook(lambda *_: 5)
    del module._forward_hooks, module._state_dict_hooks  # what was written for torch does so
    assert module(torch.ones(1)) == 1.0  # not what the hook would return
    assert module._forward_hooks == {}
    with pytest.raises(AttributeError):
        del module.nothing


def test_global_backward_hooks_of_a_module_without_hooks() -> None:
    seen: list[Any] = []
    handle = nn.register_module_full_backward_hook(
        lambda module, grads, outputs: seen.append((type(module), len(outputs)))
    )
    try:
        nn.Linear(2, 3)(torch.ones(1, 2, requires_grad=True)).sum().backward()
    finally:
        handle.remove()
    assert seen == [(nn.Linear, 1)]
