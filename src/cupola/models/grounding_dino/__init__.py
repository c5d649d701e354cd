"""Grounding DINO (arXiv 2303.05499): DINO that finds what a text names.

Also MM-Grounding-DINO (arXiv 2401.02361), whose class scores are scaled and have a bias.
"""

from cupola.models.grounding_dino.grounding_dino import GroundingDINO
from cupola.models.grounding_dino.head import GroundingDINOHead

__all__ = ["GroundingDINO", "GroundingDINOHead"]
