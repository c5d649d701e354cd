"""DINO (arXiv 2203.03605): Deformable DETR with denoising and better queries.

All that differs from Deformable DETR is in dino.py; denoising.py makes the noisy queries that it
trains with.
"""

from cupola.models.dino.denoising import CdnQueryGenerator
from cupola.models.dino.dino import DINO, DINOHead, DinoTransformerDecoder

__all__ = ["DINO", "CdnQueryGenerator", "DINOHead", "DinoTransformerDecoder"]
