"""Folders of tiny detectors as transformers saves them, with parameters that tell queries apart."""

from pathlib import Path
from typing import Any

import torch

from lazy import LazyModule

transformers = LazyModule("transformers")
NAMES = {0: "cat", 1: "dog", 2: "kite"}
KINDS = ("Detr", "ConditionalDetr", "DabDetr")


def save_detector(
    folder: Path, kind: str, backbone: dict[str, Any] | None = None, **more: Any
) -> Any:
    """Saves a detector and its processor's config with small images; returns the detector.

    `backbone` are arguments of its ResNetConfig, `more` those of its own config.
    """
    sizes = {"embedding_size": 10, "hidden_sizes": [10, 20, 30, 40], "depths": [1, 1, 2, 1]}
    resnet = transformers.ResNetConfig(**{**sizes, "out_features": ["stage4"], **(backbone or {})})
    config = getattr(transformers, f"{kind}Config")(
        **{
            "use_timm_backbone": False,
            "use_pretrained_backbone": False,
            "backbone": None,
            "backbone_config": resnet,
            "num_queries": 12,
            "encoder_layers": 1,
            "decoder_layers": 2,
            "encoder_ffn_dim": 32,
            "decoder_ffn_dim": 32,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "id2label": NAMES,
            "label2id": {name: i for i, name in NAMES.items()},
            "hidden_size" if kind == "DabDetr" else "d_model": 16,
            **more,
        }
    )
    torch.manual_seed(0)
    model = spread(getattr(transformers, f"{kind}ForObjectDetection")(config))
    model.save_pretrained(folder)
    processor(kind).save_pretrained(folder)
    return model


def processor(kind: str, **options: Any) -> Any:
    """The image processor that publishers save next to such a detector."""
    name = {"DabDetr": "ConditionalDetr"}.get(kind, kind) + "ImageProcessorPil"
    small = {"size": {"shortest_edge": 64, "longest_edge": 100}}
    return getattr(transformers, name)(**{**small, **options})


def spread(model: Any) -> Any:
    """In eval mode, with parameters so large that scores and boxes differ from query to query."""
    for parameter in model.parameters():
        scale = 0.3 if parameter.dim() < 2 else 1.5 / parameter[0].numel() ** 0.5
        torch.nn.init.normal_(parameter.data, 0.5 if parameter.dim() < 2 else 0.0, scale)
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    for name, parameter in model.named_parameters():
        if "query" in name and "embed" in name:
            torch.nn.init.normal_(parameter.data)
    return model.eval()
