"""What the filters of an AFNO do to the spectrum of one field, for `cupola explain`."""

from typing import Any

import torch
from torch import Tensor

from cupola.models.afno.filter import AFNO2D, to_spectrum


@torch.no_grad()
def inspect_afno(model: Any, fields: Tensor) -> dict[str, Any]:
    """fields [1, C, H, W], normalized -> the output [1, C', H', W'], and each filter's spectra.

    before and after [L, h, k]: mean amplitude over the channels, of the input of a filter and of
    what it adds to it, h rows and k = w // 2 + 1 columns of frequencies; kept [L]: per filter the
    row ranges and the number of columns that it changes, ((start, stop), ...), columns.
    """
    before: list[Tensor] = []
    after: list[Tensor] = []
    kept: list[Any] = []

    def record(module: AFNO2D, args: Any, output: Tensor) -> None:
        x = args[0].float()
        h, w = x.shape[1:3]
        modes = module.rule(h, w, module.fraction)
        for grid, found in ((x, before), (output.float() - x, after)):
            found.append(to_spectrum(grid, w // 2 + 1, False)[0].abs().mean(-1))
        kept.append((tuple(tuple(each) for each in modes.rows), modes.columns))

    filters = [module for module in model.modules() if isinstance(module, AFNO2D)]
    handles = [module.register_forward_hook(record) for module in filters]
    training = model.training
    model.eval()
    try:
        output = model(fields)
    finally:
        for handle in handles:
            handle.remove()
        model.train(training)
    found: dict[str, Any] = {"output": output, "kept": kept}
    if filters:
        found |= {"before": torch.stack(before), "after": torch.stack(after)}
    return found
