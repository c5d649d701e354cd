"""Freezing: parts that do not train, and batch norms that keep their statistics."""

from collections.abc import Iterable

from cupola import nn


def freeze(modules: Iterable[nn.Module]) -> None:
    """Puts modules in eval mode and takes their parameters out of training."""
    for module in modules:
        module.eval()
        for parameter in module.parameters():
            parameter.requires_grad = False


def keep_statistics(module: nn.Module) -> None:
    """Puts the batch norms below a module in eval mode, as `norm_eval` of backbones asks."""
    for each in module.modules():
        if isinstance(each, (nn.BatchNorm2d, nn.SyncBatchNorm)):
            each.eval()
