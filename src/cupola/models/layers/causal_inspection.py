"""The attention of a language model's layers on one text, for `cupola explain`."""

from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def inspect_causal(model: Any, ids: Tensor) -> dict[str, Tensor]:
    """ids [1, S] -> logits [S, V], and attention [L, N, S, S] of L layers and N heads.

    A row of the attention is a token, and sums to 1 over itself and the tokens before it. With
    ALiBi, slopes [N] are those of the heads.
    """
    weights: list[Tensor] = []
    training = model.training

    def record(layer: Any, args: Any) -> None:
        context = args[1]
        if "attend" in vars(context):
            return
        attend = context.attend

        def recorded(number: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            weights.append(context.weights(number, query, key)[0])
            mixed: Tensor = attend(number, query, key, value)
            return mixed

        context.attend = recorded

    handle = model.layers[0].register_forward_pre_hook(record)
    model.eval()
    try:
        logits = model(ids)[0]
    finally:
        handle.remove()
        model.train(training)
    slopes = {} if model.alibi_slopes is None else {"slopes": model.alibi_slopes}
    return {"logits": logits, "attention": torch.stack(weights), **slopes}
