"""The AFNO-transformer image classifier: one skip per block, final norm, mean over tokens, head.

Original: NVlabs/AFNO-transformer afno/afno2d.py in a vision transformer (arXiv 2111.13587).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.afno.layers import PatchEmbed
from cupola.models.afno.network import AFNOSettings, make_block
from cupola.nn.meta import parameter_device
from cupola.registry import MODELS

# Defaults that differ from FourCastNet's.
DEFAULTS: dict[str, Any] = {
    "img_size": 224,
    "patch_size": 16,
    "in_chans": 3,
    "modes": "transformer",
    "double_skip": False,
}


@MODELS.register_module()
class AFNOClassifier(nn.Module):
    """[B, C_in, H, W] -> class logits [B, num_classes]. Takes the keys of AFNOSettings."""

    def __init__(self, num_classes: int = 1000, **keys: Any) -> None:
        super().__init__()
        settings = AFNOSettings.of(**DEFAULTS | keys)
        self.settings = settings
        dim = settings.embed_dim
        self.patch_embed = PatchEmbed(
            settings.img_size, settings.patch_size, settings.in_chans, dim, pad=settings.pad
        )
        shape = (1, self.patch_embed.num_patches, dim)
        self.pos_embed = nn.Parameter(torch.zeros(shape, device=parameter_device(None)))
        self.blocks = nn.ModuleList(
            [make_block(settings, i, self.patch_embed.grid) for i in range(settings.depth)]
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, num_classes)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    @property
    def example_shape(self) -> tuple[int, int, int]:
        """[C_in, H, W] of an input."""
        return (self.settings.in_chans, *self.settings.img_size)

    def forward_features(self, x: Tensor) -> Tensor:
        """Pooled features: [B, C_in, H, W] -> [B, D]."""
        tokens = self.patch_embed(x) + self.pos_embed
        tokens = torch.unflatten(tokens, 1, self.patch_embed.grid)  # [B, h, w, D]
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens).mean(dim=(1, 2))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] -> [B, num_classes]."""
        return self.head(self.forward_features(x))

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Cross entropy of batch["pixels"] [B, C, H, W] against batch["labels"] [B]."""
        return {"loss": F.cross_entropy(self(batch["pixels"]), batch["labels"])}

    def predict(self, batch: dict[str, Tensor]) -> list[Tensor]:
        """The class of each sample."""
        return list(self(batch["pixels"]).argmax(dim=1))
