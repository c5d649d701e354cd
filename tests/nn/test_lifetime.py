"""A dropped tree is freed at once by reference counting, and calls keep no references."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch

from cupola import nn


def used(model: Any) -> Any:
    model(torch.randn(2, 2)).sum().backward()
    model.load_state_dict(model.state_dict())
    list(model.named_parameters())
    model.double().float().eval()
    return model


def hooked(model: Any) -> Any:
    model.register_forward_hook(lambda m, a, o: None)
    model.register_full_backward_hook(lambda m, gi, go: None)
    model._register_load_state_dict_pre_hook(lambda *a: None, with_module=True)
    return model


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("prepare", [used, hooked, nn.to_torch, lambda m: m.__dict__ and m])
def test_a_dropped_tree_is_freed_by_reference_count(prepare: Callable[[Any], Any]) -> None:
    gc.collect()
    gc.disable()
    try:
        model = prepare(nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.BatchNorm1d(2))))
        refs = [weakref.ref(thing) for thing in (*model.modules(), *model.parameters())]
        del model
        assert [ref() for ref in refs] == [None] * len(refs)
    finally:
        gc.enable()


def test_a_view_does_not_keep_its_module() -> None:
    module = nn.Linear(1, 1)
    ref, view = weakref.ref(module), module._parameters
    del module
    assert ref() is None
    assert len(view) == 2
