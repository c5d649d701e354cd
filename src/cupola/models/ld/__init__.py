"""Localization distillation (arXiv 2102.12252): a detector learns from a larger one."""

from cupola.models.ld.detector import KnowledgeDistillationSingleStageDetector
from cupola.models.ld.head import LDHead

__all__ = ["KnowledgeDistillationSingleStageDetector", "LDHead"]
