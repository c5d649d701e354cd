"""Batches of training are padded as the model's data_preprocessor says."""

from typing import Any

import pytest
import torch

from cupola import registry
from cupola.train.padding import collate_with, pad_batch, published_padding
from cupola.train.pixels import published_pixels, served_model, with_pixels
from cupola.train.version2_pipeline import preprocessing_of

PAD = {"type": "mmdet.BatchFixedSizePad", "size": (12, 9), "pad_mask": True}
MODEL = {
    "data_preprocessor": {
        "type": "DetDataPreprocessor",
        "mean": [1.0, 2, 3],
        "std": [4.0, 5, 6],
        "pad_size_divisor": 4,
        "batch_augments": [PAD],
    }
}


def batch(height: int, width: int, mask: torch.Tensor | None = None) -> dict[str, Any]:
    return {"pixels": torch.ones(2, 3, height, width), "padding_mask": mask, "targets": [1, 2]}


def test_published_padding_has_the_fixed_size_in_training_only() -> None:
    assert published_padding(MODEL, True) == {"divisor": 4, "at_least": (12, 9)}
    assert published_padding(MODEL, False) == {"divisor": 4}
    assert published_padding({}, True) == {}


def test_dataloaders_get_the_padding_of_their_use() -> None:
    data = {"dataset": {"type": "CocoDataset"}}
    cfg = with_pixels({"model": MODEL, "train_dataloader": data, "val_dataloader": data})
    assert cfg["train_dataloader"]["padding"] == {"divisor": 4, "at_least": (12, 9)}
    assert cfg["val_dataloader"]["padding"] == {"divisor": 4}
    assert cfg["val_dataloader"]["dataset"]["mean"] == [1.0, 2, 3]


RAW = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}


def test_a_preprocessor_without_mean_leaves_pixels_in_bgr_as_they_are() -> None:
    """As YOLOX's; a config without a preprocessor keeps ImageNet's values."""
    model = {"type": "YOLOX", "data_preprocessor": {"type": "mmdet.DetDataPreprocessor"}}
    assert published_pixels(model) == {**RAW, "channel_order": "bgr"}
    served = served_model(model)["data_preprocessor"]
    assert served == {"type": "mmdet.DetDataPreprocessor", **RAW, "bgr_to_rgb": True}
    assert published_pixels({"type": "DETR"}) == {}
    assert published_pixels({"data_preprocessor": {"type": "Det3DDataPreprocessor"}}) == {}


def test_a_pipeline_of_2x_without_normalize_leaves_pixels_as_they_are() -> None:
    inner = {"type": "CocoDataset", "pipeline": [{"type": "LoadImageFromFile"}]}
    mixed = {"type": "MultiImageMixDataset", "dataset": inner, "pipeline": [{"type": "Mosaic"}]}
    assert preprocessing_of(mixed) == {"bgr_to_rgb": False}
    assert preprocessing_of({"type": "DigitsInPhotos"}) == {}


@pytest.mark.parametrize(
    ("size", "arguments", "padded"),
    [
        ((5, 8), {"divisor": 4}, (8, 8)),
        ((8, 8), {"divisor": 4}, (8, 8)),
        ((5, 6), {"at_least": (12, 9)}, (12, 9)),
        ((5, 13), {"divisor": 4, "at_least": (12, 9)}, (12, 16)),  # larger sides stay
    ],
)
def test_batches_grow_at_the_right_and_bottom(
    size: tuple[int, int], arguments: dict[str, Any], padded: tuple[int, int]
) -> None:
    got = pad_batch(batch(*size), **arguments)
    assert got["pixels"].shape[-2:] == padded and got["targets"] == [1, 2]
    if padded == size:
        assert got["padding_mask"] is None
        return
    inside = torch.zeros(padded, dtype=torch.bool)
    inside[: size[0], : size[1]] = True
    assert torch.equal(got["padding_mask"], (~inside).expand(2, *padded))
    assert torch.equal(got["pixels"], inside.float().expand(2, 3, *padded))


def test_a_padding_mask_is_kept_and_other_batches_stay() -> None:
    mask = torch.zeros(2, 5, 8, dtype=torch.bool)
    mask[1, 3:] = True
    got = pad_batch(batch(5, 8, mask), divisor=4)["padding_mask"]
    assert torch.equal(got[:, :5], mask) and got[:, 5:].all()
    fields = {"fields": torch.ones(2, 5, 8)}
    assert pad_batch(fields, divisor=4) is fields


def test_collating_pads_only_where_it_is_asked_for() -> None:
    def collate(samples: Any) -> dict[str, Any]:
        return batch(*samples[0])

    assert collate_with(collate, None) is collate
    assert collate_with(collate, {"divisor": 4})([(3, 4)])["pixels"].shape == (2, 3, 4, 4)


def test_padding_values_other_than_zero_are_refused() -> None:
    assert registry.MODELS.build(PAD).size == (12, 9)
    with pytest.raises(Exception, match="padded with 0 only"):
        registry.MODELS.build({**PAD, "img_pad_value": 114})
