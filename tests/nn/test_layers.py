"""Cupola's layers against torch's: printed form, keys, outputs, gradients, in train and eval."""

import inspect
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cupola import nn

# name, constructor arguments, input shapes
CASES: list[tuple[str, tuple[Any, ...], dict[str, Any], list[tuple[int, ...]]]] = [
    ("Linear", (3, 4), {}, [(2, 3)]),
    ("Linear", (3, 4), {"bias": False}, [(2, 5, 3)]),
    ("Identity", (), {}, [(2, 3)]),
    ("Conv2d", (3, 4, (3, 2)), {"dilation": 2, "bias": False}, [(2, 3, 8, 8)]),
    ("Conv2d", (3, 4, 3), {"padding": (1, 2), "padding_mode": "reflect"}, [(2, 3, 8, 8)]),
    ("BatchNorm1d", (3,), {}, [(4, 3)]),
    ("BatchNorm1d", (3,), {"momentum": None}, [(4, 3, 5)]),
    ("BatchNorm2d", (3,), {"affine": False}, [(4, 3, 5, 5)]),
    ("BatchNorm2d", (3,), {"track_running_stats": False}, [(4, 3, 5, 5)]),
    ("BatchNorm2d", (3,), {"bias": False}, [(4, 3, 5, 5)]),
    ("SyncBatchNorm", (3,), {}, [(4, 3, 5)]),
    ("LayerNorm", (5,), {}, [(2, 3, 5)]),
    ("LayerNorm", ((3, 5),), {"bias": False}, [(2, 3, 5)]),
    ("LayerNorm", (5,), {"elementwise_affine": False}, [(2, 3, 5)]),
    ("RMSNorm", (5,), {}, [(2, 3, 5)]),
    ("RMSNorm", ([3, 5],), {"eps": 1e-3, "elementwise_affine": False}, [(2, 3, 5)]),
    ("GroupNorm", (2, 4), {}, [(2, 4, 3)]),
    ("GroupNorm", (2, 4), {"affine": False}, [(2, 4, 3)]),
    ("ReLU", (), {"inplace": False}, [(2, 3)]),
    ("SiLU", (), {}, [(2, 3)]),
    ("Sigmoid", (), {}, [(2, 3)]),
    ("Tanh", (), {}, [(2, 3)]),
    ("LeakyReLU", (0.2,), {}, [(2, 3)]),
    ("GELU", (), {"approximate": "tanh"}, [(2, 3)]),
    ("Dropout", (0.4,), {}, [(8, 9)]),
    ("MaxPool2d", (3,), {"stride": 2, "padding": 1, "ceil_mode": True}, [(2, 3, 8, 8)]),
]


def twins(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """Return our layer and torch's, made from the same seed."""
    torch.manual_seed(3)
    ours = getattr(nn, name)(*args, **kwargs)
    torch.manual_seed(3)
    return ours, getattr(torch.nn, name)(*args, **kwargs)


def run(layer: Any, inputs: list[torch.Tensor], seed: int) -> tuple[Any, list[torch.Tensor]]:
    """Return output and gradients (of the inputs, then the parameters)."""
    torch.manual_seed(seed)
    inputs = [x.clone().requires_grad_() for x in inputs]
    output = layer(*inputs)
    leaves = [*inputs, *layer.parameters()]
    grads = torch.autograd.grad(output.double().pow(2).sum(), leaves, allow_unused=True)
    return output, [torch.zeros(()) if g is None else g for g in grads]


def assert_same(ours: Any, theirs: Any) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "args", "kwargs", "shapes"), CASES, ids=lambda v: str(v)[:30])
def test_a_layer_does_what_its_torch_twin_does(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: list[tuple[int, ...]]
) -> None:
    ours, theirs = twins(name, args, kwargs)
    assert repr(ours) == repr(theirs)
    assert_same(dict(ours.state_dict()), dict(theirs.state_dict()))
    assert ours.state_dict()._metadata == theirs.state_dict()._metadata
    torch.manual_seed(1)
    inputs = [torch.randn(shape) for shape in shapes]
    for training in (True, True, False):
        ours.train(training)
        theirs.train(training)
        assert_same(run(ours, inputs, 5), run(theirs, inputs, 5))
        assert_same(dict(ours.state_dict()), dict(theirs.state_dict()))


@settings(max_examples=25, deadline=None)
@given(
    channels=st.integers(1, 3),
    groups=st.integers(1, 2),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    bias=st.booleans(),
    mode=st.sampled_from(["zeros", "replicate", "circular"]),
)
def test_convolutions_agree_on_random_settings(
    channels: int,
    groups: int,
    kernel: int,
    stride: int,
    padding: int,
    dilation: int,
    bias: bool,
    mode: str,
) -> None:
    args = (channels * groups, 2 * groups, kernel, stride, padding, dilation, groups, bias, mode)
    ours, theirs = twins("Conv2d", args, {})
    x = torch.randn(2, channels * groups, 7, 7)
    assert repr(ours) == repr(theirs)
    assert_same(run(ours, [x], 0), run(theirs, [x], 0))


@settings(max_examples=40, deadline=None)
@given(
    heads=st.sampled_from([1, 2, 4]),
    dims=st.sampled_from([(None, None), (3, 5)]),
    batch_first=st.booleans(),
    need_weights=st.booleans(),
    average=st.booleans(),
    add_bias_kv=st.booleans(),
    add_zero_attn=st.booleans(),
    bias=st.booleans(),
    padding=st.sampled_from([None, "bool", "float"]),
    mask=st.sampled_from([None, "bool", "float", "heads"]),
    batched=st.booleans(),
    shared=st.booleans(),
    train=st.booleans(),
)
def test_attention_agrees_on_random_settings(
    heads: int,
    dims: tuple[int | None, int | None],
    batch_first: bool,
    need_weights: bool,
    average: bool,
    add_bias_kv: bool,
    add_zero_attn: bool,
    bias: bool,
    padding: str | None,
    mask: str | None,
    batched: bool,
    shared: bool,
    train: bool,
) -> None:
    kwargs = {
        "bias": bias,
        "add_bias_kv": add_bias_kv,
        "add_zero_attn": add_zero_attn,
        "kdim": dims[0],
        "vdim": dims[1],
        "batch_first": batch_first,
    }
    ours, theirs = twins("MultiheadAttention", (8, heads), kwargs)
    assert_same(dict(ours.state_dict()), dict(theirs.state_dict()))
    ours.train(train)
    theirs.train(train)
    B, L, S = 2, 4, 5
    query = torch.randn(B, L, 8)
    key, value = torch.randn(B, S, dims[0] or 8), torch.randn(B, S, dims[1] or 8)
    if shared and dims == (None, None):
        value = key
    if not batched:
        B = 1
        query, key, value = query[0], key[0], value[0]
    elif not batch_first:
        query, key, value = (t.transpose(0, 1) for t in (query, key, value))
    padded = torch.zeros(B, S, dtype=torch.bool)
    padded[0, -2:] = True
    if not batched:
        padded = padded[0]
    attn_mask = torch.ones(L, S, dtype=torch.bool).triu(2)
    if mask == "heads":
        attn_mask = attn_mask.expand(B * heads, L, S)
    call = {
        "key_padding_mask": None
        if padding is None
        else (padded if padding == "bool" else padded.float()),
        "attn_mask": None
        if mask is None
        else (attn_mask.float() if mask == "float" else attn_mask),
        "need_weights": need_weights,
        "average_attn_weights": average,
    }
    if (padding == "float") != (mask == "float") and None not in (padding, mask):
        return  # torch warns of masks of two kinds
    assert_same(ours(query, key, value, **call), theirs(query, key, value, **call))


def test_attention_drops_weights_in_training_only() -> None:
    attention = nn.MultiheadAttention(8, 2, dropout=0.9)
    x = torch.randn(5, 1, 8)
    assert (attention(x, x, x)[1] == 0).any()
    assert not (attention.eval()(x, x, x)[1] == 0).any()


def test_errors_of_attention() -> None:
    with pytest.raises(ValueError, match="greater than 0"):
        nn.MultiheadAttention(0, 1)
    with pytest.raises(AssertionError, match="divisible by num_heads"):
        nn.MultiheadAttention(8, 3)
    attention, x = nn.MultiheadAttention(8, 2), torch.randn(4, 1, 8)
    with pytest.raises(RuntimeError, match="Need attn_mask"):
        attention(x, x, x, is_causal=True)
    with pytest.raises(RuntimeError, match="shape of attn_mask"):
        attention(x, x, x, attn_mask=torch.zeros(3, 3))
    with pytest.raises(AssertionError, match="key_padding_mask should be"):
        attention(x, x, x, key_padding_mask=torch.zeros(4, 4))
    with pytest.raises(AssertionError, match="only bool and floating"):
        attention(x, x, x, attn_mask=torch.zeros(4, 4, dtype=torch.int))
    with pytest.raises(AssertionError, match="`key` and `value` to be 3-D but found 2-D"):
        attention(x, x[0], x)
    with pytest.raises(AssertionError, match="query should be unbatched 2D or batched 3D"):
        attention(x[0, 0], x, x)


@torch.no_grad()
@pytest.mark.parametrize("masks", [(), ("attn_mask",), ("key_padding_mask", "attn_mask")])
def test_self_attention_in_evaluation_runs_in_one_kernel(
    monkeypatch: pytest.MonkeyPatch, masks: tuple[str, ...]
) -> None:
    attention, x = nn.MultiheadAttention(8, 2, batch_first=True).eval(), torch.randn(3, 5, 8)
    shapes = {"attn_mask": (5, 5), "key_padding_mask": (3, 5)}
    given = {name: torch.ones(shapes[name], dtype=torch.bool).triu(2) for name in masks}
    fused = attention(x, x, x, **given)
    monkeypatch.setattr(torch, "_native_multi_head_attention", None)  # now a call would fail
    assert_same(fused, attention(x, x.clone(), x, **given))
    with pytest.raises(TypeError, match="not callable"):
        attention(x, x, x)
    attention.out_proj.register_forward_hook(lambda *_: None)  # the kernel would pass it by
    attention(x, x, x)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_self_attention_takes_nested_tensors_in_evaluation_only() -> None:
    attention = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    x = torch.nested.nested_tensor([torch.randn(2, 8), torch.randn(4, 8)])
    with pytest.raises(AssertionError, match="fast path was not hit because grad is enabled"):
        attention(x, x, x)
    with torch.no_grad():
        output = attention(x, x, x, need_weights=False)[0]
        alone = attention(x[0][None], x[0][None], x[0][None])[0][0]
    assert_same(output[0], alone)


def test_embeddings_agree_with_torch() -> None:
    index = torch.tensor([[1, 2], [0, 4]])
    cases: list[dict[str, Any]] = [{}, {"padding_idx": -1}, {"norm_type": 1.0, "sparse": True}]
    for kwargs in (*cases, {"max_norm": 1.0, "scale_grad_by_freq": True}):
        ours, theirs = twins("Embedding", (5, 3), kwargs)
        assert repr(ours) == repr(theirs)
        assert_same(ours(index), theirs(index))
    table = torch.randn(4, 2)
    assert not nn.Embedding.from_pretrained(table).weight.requires_grad
    with pytest.raises(AssertionError, match="2-dimensional"):
        nn.Embedding.from_pretrained(torch.randn(3))
    with pytest.raises(AssertionError, match="within num_embeddings"):
        nn.Embedding(5, 3, padding_idx=5)
    with pytest.raises(AssertionError, match="Shape of weight"):
        nn.Embedding(5, 3, _weight=table)


def test_errors_of_convolutions() -> None:
    for kwargs, message in (
        ({"groups": 2}, "in_channels must be divisible"),
        ({"groups": 3}, "out_channels must be divisible"),
        ({"groups": 0}, "groups must be a positive"),
        ({"padding": "half"}, "Invalid padding string"),
        ({"padding": "same", "stride": 2}, "not supported for strided"),
        ({"padding_mode": "mirror"}, "padding_mode must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            nn.Conv2d(3, 4, 3, **kwargs)


def test_pooling_gives_indices() -> None:
    x = torch.randn(1, 2, 6, 6)
    ours, theirs = (lib.MaxPool2d(2, return_indices=True)(x) for lib in (nn, torch.nn))
    assert_same(ours, theirs)


def test_errors_of_other_layers() -> None:
    with pytest.raises(ValueError, match="divisible by num_groups"):
        nn.GroupNorm(2, 3)
    with pytest.raises(ValueError, match="between 0 and 1"):
        nn.Dropout(1.5)
    with pytest.raises(ValueError, match="between 0 and 1"):
        nn.DropPath(-1)
    with pytest.raises(ValueError, match="expected 4D input"):
        nn.BatchNorm2d(3)(torch.randn(2, 3))


def test_drop_path_drops_whole_samples_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    x = torch.ones(20000, 2)
    y = nn.DropPath(0.25)(x)
    assert y[:, 0].unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert torch.equal(y[:, 0], y[:, 1])
    assert y.mean().item() == pytest.approx(1.0, abs=0.02)
    assert nn.DropPath(0.25).eval()(x) is x
    assert not nn.DropPath(1.0)(x).any()
    assert repr(nn.DropPath(0.25)) == "DropPath(drop_prob=0.25)"


def test_frozen_batch_norm_is_a_batch_norm_in_evaluation() -> None:
    plain = nn.BatchNorm2d(3)
    plain(torch.randn(4, 3, 5, 5))
    frozen = nn.FrozenBatchNorm2d(3)
    frozen.load_state_dict(plain.state_dict())  # num_batches_tracked is ignored
    x = torch.randn(2, 3, 4, 4)
    assert_same(frozen(x), plain.eval()(x))
    assert not list(frozen.parameters())
    assert repr(frozen) == "FrozenBatchNorm2d(3, eps=1e-05)"


def test_sync_batch_norm_takes_over_batch_norms() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3, affine=False))
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert isinstance(converted[1], nn.SyncBatchNorm)
    assert converted[1].running_mean is model[1].running_mean
    with pytest.raises(ValueError, match="at least 2D"):
        converted[1](torch.randn(3))
    with pytest.raises(ValueError, match="should be non-zero"):
        converted[1](torch.randn(3, 0))


def test_every_layer_takes_the_arguments_of_its_torch_twin() -> None:
    differ = []
    for name in nn.layers.__all__:
        ours, theirs = getattr(nn, name), getattr(torch.nn, name, None)
        if theirs is None:
            continue
        wanted = {k: (p.kind, p.default) for k, p in inspect.signature(theirs).parameters.items()}
        got = {k: (p.kind, p.default) for k, p in inspect.signature(ours).parameters.items()}
        got = {name: got[name] for name in got if name in wanted}
        if list(got.items()) != list(wanted.items()):
            differ.append(name)
    assert differ == []
