"""neuraloperator's FNO: lists of parts instead of blocks, complex weights, shifted rows."""

import torch
from torch import Tensor

from cupola.weights.dialects.base import Dialect, State, StateView

# Their list below `fno_blocks.` -> the part of our block, and the rest of the key.
PARTS = {
    "convs.{}.weight.tensor": "conv.weight",
    "convs.{}.weight": "conv.weight",
    "convs.{}.bias": "bias",
    "fno_skips.{}.conv.weight": "skip.weight",
    "fno_skips.{}.weight": "skip.weight",
    "channel_mlp_skips.{}.weight": "gate",
    "mlp_skips.{}.weight": "gate",
}
MLPS = ("channel_mlp.", "mlp.")


def _our_key(key: str) -> str:
    if not key.startswith("fno_blocks."):
        return key
    rest = key.removeprefix("fno_blocks.")
    for theirs, ours in PARTS.items():
        before, after = theirs.split("{}")
        number = rest.removeprefix(before).removesuffix(after)
        if rest.startswith(before) and rest.endswith(after) and number.isdigit():
            return f"blocks.{number}.{ours}"
    for name in MLPS:
        number, _, inner = rest.removeprefix(name).partition(".")
        if rest.startswith(name) and number.isdigit():
            return f"blocks.{number}.mlp.{inner}"
    return key


def _our_value(key: str, value: Tensor) -> Tensor:
    if key.endswith("conv.weight") and value.is_complex():
        half = value.shape[2] // 2  # their rows begin with the lowest frequency, ours with 0
        rows = value.roll(half, dims=2).permute(2, 3, 0, 1)  # [2M, K, I, O]
        return torch.view_as_real(rows.contiguous())
    if key.endswith("weight") and value.ndim == 3:
        return value[..., None]  # Conv1d -> Conv2d
    return value


def _their_key(key: str) -> str:
    if not key.startswith("blocks."):
        return key
    _, number, rest = key.split(".", 2)
    if rest.startswith("mlp."):
        return f"fno_blocks.channel_mlp.{number}.{rest.removeprefix('mlp.')}"
    first = {ours: theirs for theirs, ours in reversed(PARTS.items())}
    return "fno_blocks." + first[rest].format(number)


def _their_value(key: str, value: Tensor) -> Tensor:
    if key.endswith("conv.weight"):
        rows = torch.view_as_complex(value.contiguous()).permute(2, 3, 0, 1)
        return rows.roll(rows.shape[2] // 2, dims=2).contiguous()
    pointwise = key.endswith("weight") and value.ndim == 4 and value.shape[0] != 1
    return value[..., 0] if pointwise and "gate" not in key else value


def _to_ours(state: StateView, own: StateView) -> State:
    named = ((_our_key(key), value) for key, value in state.items() if key != "_metadata")
    return {key: _our_value(key, value) for key, value in named}


def _to_theirs(state: StateView) -> State:
    return {_their_key(key): _their_value(key, value) for key, value in state.items()}


NEURALOPERATOR = Dialect(
    "neuraloperator",
    lambda state, own: (
        any(key.startswith("fno_blocks.") for key in state) and "blocks.0.gate" in own
    ),
    _to_ours,
    _to_theirs,
)
