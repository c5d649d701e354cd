"""Recognizes quantized checkpoints, whose integer codes must not be taken for weights."""

from collections.abc import Iterable

from cupola.errors import CheckpointError

# What a key ends in -> the method that writes it. The first one that is found counts.
KEY_ENDS = {
    ".SCB": "bitsandbytes (8 bits)",
    ".weight.absmax": "bitsandbytes (4 bits)",
    ".weight.quant_map": "bitsandbytes (4 bits)",
    ".g_idx": "GPTQ",
    ".qweight": "GPTQ or AWQ",
    ".qzeros": "GPTQ or AWQ",
    ".weight_scale_inv": "FP8",
    ".weight_packed": "compressed-tensors",
}


def refuse_quantized(keys: Iterable[str], where: str) -> None:
    """CheckpointError that names the method if some keys are those of a quantized model."""
    keys = list(keys)
    for end, method in KEY_ENDS.items():
        for key in keys:
            if key.endswith(end):
                raise CheckpointError(
                    f"{where}: quantized with {method} ({key}), which is not supported; load the "
                    "model's original weights, or save it dequantized with the tool that made it"
                )
