"""LLaMA (arXiv 2302.13971), and Mistral and Qwen2, which differ from it in their settings."""

from cupola.models.llama.model import (
    LlamaForCausalLM,
    LlamaModel,
    MistralForCausalLM,
    Qwen2ForCausalLM,
)
from cupola.models.llama.settings import LlamaSettings

__all__ = [
    "LlamaForCausalLM",
    "LlamaModel",
    "LlamaSettings",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
]
