"""Initial weights of convolutions, as backbones without a checkpoint start."""

from cupola import nn


def initialize_convolutions(module: nn.Module) -> None:
    """Draws the weights of all 2-D convolutions below a module (He et al., arXiv 1502.01852).

    Layers that set `own_initialization`, such as attention plugins, keep what they have.
    """
    for child in module.children():
        if isinstance(child, nn.Conv2d):
            nn.init.kaiming_normal_(child.weight, mode="fan_out", nonlinearity="relu")
        elif not getattr(child, "own_initialization", False):
            initialize_convolutions(child)


def initialize_uniformly(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases of all 2-D convolutions below a neck."""
    for each in module.modules():
        if isinstance(each, nn.Conv2d):
            nn.init.xavier_uniform_(each.weight)
            if each.bias is not None:
                nn.init.zeros_(each.bias)


def pretrained_init(pretrained: str | None, init_cfg: object) -> object:
    """The `init_cfg` of a backbone; `pretrained` is the spelling of MMDetection 2.x."""
    return init_cfg or ({"type": "Pretrained", "checkpoint": pretrained} if pretrained else None)
