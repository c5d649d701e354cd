"""Lazy layers: unknown until the first call or load, plain ones afterwards."""

import copy
import pickle
from typing import Any

import pytest
import torch

from cupola import nn

CASES: list[tuple[str, tuple[Any, ...], dict[str, Any], tuple[int, ...]]] = [
    ("Linear", (4,), {}, (2, 3)),
    ("Linear", (4,), {"bias": False}, (2, 3)),
    ("Conv1d", (4, 3), {"stride": 2}, (2, 3, 9)),
    ("Conv2d", (4, 3, 1, 1, 1, 2), {}, (2, 4, 9, 9)),
    ("Conv3d", (4, 2, 1, 0, 1, 1, False), {}, (3, 4, 4, 4)),
    ("ConvTranspose1d", (4, 3), {"bias": False}, (2, 3, 9)),
    ("ConvTranspose2d", (4, 3, 2, 1, 1), {}, (2, 3, 5, 5)),
    ("ConvTranspose3d", (4, 2), {}, (2, 3, 3, 3, 3)),
    ("BatchNorm1d", (), {}, (4, 3)),
    ("BatchNorm2d", (1e-3,), {"affine": False}, (4, 3, 5, 5)),
    ("BatchNorm3d", (), {"track_running_stats": False, "bias": False}, (4, 3, 2, 2, 2)),
    ("InstanceNorm1d", (), {"affine": True}, (4, 3, 5)),
    ("InstanceNorm2d", (), {"track_running_stats": True}, (4, 3, 5, 5)),
    ("InstanceNorm3d", (), {}, (4, 3, 2, 2, 2)),
]

pytestmark = pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")


@pytest.mark.parametrize(("name", "args", "kwargs", "shape"), CASES, ids=lambda v: str(v)[:20])
def test_a_lazy_layer_becomes_the_plain_one(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any], shape: tuple[int, ...]
) -> None:
    x = torch.randn(shape)
    ours, theirs = (getattr(lib, f"Lazy{name}")(*args, **kwargs) for lib in (nn, torch.nn))
    assert ours.has_uninitialized_params() == theirs.has_uninitialized_params()
    torch.manual_seed(0)
    expected = theirs(x)
    torch.manual_seed(0)
    torch.testing.assert_close(ours(x), expected)
    assert type(ours) is getattr(nn, name)
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert not ours._forward_pre_hooks


def test_loading_a_state_gives_lazy_layers_their_size() -> None:
    lazy = nn.LazyLinear(4)
    plain = nn.Linear(3, 4)
    lazy.load_state_dict(plain.state_dict())
    assert not lazy.has_uninitialized_params()
    x = torch.randn(2, 3)
    assert torch.equal(lazy(x), plain(x))
    assert lazy.in_features == 3


def test_unknown_parameters_are_saved_copied_and_pickled_as_such() -> None:
    lazy = nn.Sequential(nn.LazyConv2d(4, 3))
    for twin in (copy.deepcopy(lazy), pickle.loads(pickle.dumps(lazy))):
        assert twin[0].has_uninitialized_params()
        twin.load_state_dict(lazy.state_dict())
        assert twin[0].has_uninitialized_params()
        twin(torch.randn(1, 2, 5, 5))
        assert type(twin[0]) is nn.Conv2d
    with pytest.raises(RuntimeError, match="shape of an uninitialized"):
        nn.Sequential(nn.Conv2d(2, 4, 3)).load_state_dict(lazy.state_dict())


def test_errors_of_lazy_layers() -> None:
    with pytest.raises(RuntimeError, match=r"Expected 3D \(unbatched\) or 4D \(batched\)"):
        nn.LazyConv2d(4, 3)(torch.randn(2, 3))
    with pytest.raises(ValueError, match="in_channels must be divisible"):
        nn.LazyConv1d(4, 3, groups=2)(torch.randn(1, 3, 5))
