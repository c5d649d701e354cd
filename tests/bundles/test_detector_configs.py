"""config.json and preprocessor_config.json of transformers' detectors, in old and new spellings."""

import json
from pathlib import Path
from typing import Any

import pytest

from cupola.bundles import Bundle
from cupola.errors import BundleError

DETR: dict[str, Any] = {"model_type": "detr", "architectures": ["DetrForObjectDetection"]}
DAB: dict[str, Any] = {"model_type": "dab-detr", "architectures": ["DabDetrForObjectDetection"]}


def bundle(
    folder: Path, config: dict[str, Any], images: dict[str, Any] | list[Any] | None = None
) -> Bundle:
    (folder / "config.json").write_text(json.dumps(config))
    if images is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(images))
    return Bundle.load(folder)


@pytest.mark.parametrize(
    ("images", "resize"),
    [
        ({"size": 600, "max_size": 900}, {"short": 600, "long": 900}),
        ({"size": 600}, {"short": 600, "long": 1333}),
        ({"size": {"shortest_edge": 600, "longest_edge": 900}}, {"short": 600, "long": 900}),
        ({"size": {"shortest_edge": 600}}, {"short": 600, "long": None}),
        ({"size": {"height": 64, "width": 96}}, {"exact": [64, 96]}),
        ({"size": [64, 96]}, {"exact": [64, 96]}),
        ({"size": {"max_height": 64, "max_width": 96}}, {"within": [64, 96]}),
        ({}, {"short": 800, "long": 1333}),
        (None, {"short": 800, "long": 1333}),
        ({"do_resize": False}, {}),
    ],
)
def test_sizes(tmp_path: Path, images: dict[str, Any] | None, resize: dict[str, Any]) -> None:
    if "short" in resize:
        resize["rounding"] = "transformers"
    if resize:
        resize["resample"] = "bilinear"
    found = bundle(tmp_path, DETR, images)
    assert found.config["preprocess"] == {"resize": resize}
    assert found.config["postprocess"] == {"threshold": 0.5}


def test_padding_and_filter(tmp_path: Path) -> None:
    images = {"pad_size": {"height": 64, "width": 96}, "size": [32, 48], "resample": 3}
    expected = {"resize": {"exact": [32, 48], "resample": "bicubic"}, "pad": [64, 96]}
    assert bundle(tmp_path, DETR, images).config["preprocess"] == expected
    for off in ({"do_pad": False}, {"pad_and_return_pixel_mask": False}):
        assert "pad" not in bundle(tmp_path, DETR, {**images, **off}).config["preprocess"]


@pytest.mark.parametrize(
    ("images", "mean", "std"),
    [
        ({}, 123.675, 58.395),
        ({"image_mean": [0.5, 0, 0], "image_std": [0.25, 1, 1]}, 127.5, 63.75),
        ({"do_rescale": False, "image_mean": 100, "image_std": 50}, 100, 50),
        ({"do_normalize": False}, 0, 255),
        ({"rescale_factor": 0.5}, 0.97, 0.458),
    ],
)
def test_normalization(tmp_path: Path, images: dict[str, Any], mean: float, std: float) -> None:
    about = bundle(tmp_path, DETR, images).model_config["data_preprocessor"]
    assert about["mean"][0] == pytest.approx(mean)
    assert about["std"][0] == pytest.approx(std)


def test_labels(tmp_path: Path) -> None:
    assert bundle(tmp_path, {**DETR, "id2label": {"0": "a", "1": "b"}}).labels == ("a", "b")
    assert bundle(tmp_path, {**DETR, "id2label": {"1": "b", "3": "d"}}).labels == ("LABEL_0", "b")
    assert bundle(tmp_path, {**DETR, "num_labels": 3}).labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert (
        bundle(tmp_path, {**DETR, "id2label": None}).model_config["bbox_head"]["num_classes"] == 2
    )


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, {"depth": 50, "strides": [1, 2, 2, 2]}),
        ({"backbone": "resnet101", "dilation": True}, {"depth": 101, "dilations": [1, 1, 1, 2]}),
        ({"backbone_config": {"model_type": "timm_backbone", "backbone": "resnet18.a1_in1k"}},
         {"depth": 18, "out_indices": [3]}),
        ({"backbone_kwargs": {"out_indices": [2, 3], "in_chans": 1}},
         {"num_stages": 3, "out_indices": [2], "in_channels": 1}),
        ({"use_timm_backbone": False, "backbone": "microsoft/resnet-34"}, {"depth": 34}),
        ({"backbone_config": {"model_type": "resnet", "layer_type": "basic"}},
         {"depth": 18, "stage_blocks": [3, 4, 6, 3], "stage_widths": [256, 512, 1024, 2048]}),
        ({"backbone_config": {"model_type": "resnet", "out_indices": [-2]}}, {"out_indices": [2]}),
    ],
)  # fmt: skip
def test_backbones(tmp_path: Path, config: dict[str, Any], expected: dict[str, Any]) -> None:
    images = {"image_mean": 0.5, "image_std": 0.5}
    model = bundle(tmp_path, {**DETR, **config}, images).model_config
    assert {key: model["backbone"][key] for key in expected} == expected


def test_the_model_type_stands_for_missing_architectures(tmp_path: Path) -> None:
    for model_type, kind in {
        "detr": "DETR",
        "conditional_detr": "ConditionalDETR",
        "dab-detr": "DABDETR",
        "deformable_detr": "DeformableDETR",
    }.items():
        model = bundle(tmp_path, {"model_type": model_type}).model_config
        assert model["type"] == kind
        assert model["num_queries"] == (100 if kind == "DETR" else 300)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architectures": ["RTDetrForObjectDetection"]},
         "config.json: a transformers checkpoint of RTDetrForObjectDetection; only languag"),
        ({"architectures": ["DetrModel"]}, "of DetrModel; only .* DetrForObjectDetection, Detr"),
        ({"position_embedding_type": "learned"}, "'learned' is not supported, only 'sine'"),
        ({"activation_function": "tanh"}, "activation_function 'tanh' is not supported, only relu"),
        ({"encoder_layers": 10**9}, r"encoder_layers 1000000000: expected a whole number in 1\.\."),
        ({"d_model": "256"}, "d_model '256': expected a whole number"),
        ({"num_queries": True}, "num_queries True: expected a whole number"),
        ({"decoder_attention_heads": 7}, "decoder_attention_heads 7 does not divide 256 channels"),
        ({"dropout": "0.1"}, "dropout '0.1': expected a number"),
        ({"id2label": ["a"]}, r"id2label \['a'\]: expected an object"),
        ({"backbone": "swin_tiny"}, "backbone 'swin_tiny': of timm's models, only resnet18"),
        ({"backbone": "resnet50d"}, "backbone 'resnet50d': of timm's models"),
        ({"use_timm_backbone": False, "backbone": "x"}, "backbone 'x': only ResNets are supported"),
        ({"backbone_config": {"model_type": "swin"}}, "model_type 'swin' is not supported"),
        ({"backbone_config": {"model_type": "resnet", "depths": [1]}},
         "hidden_sizes has 4 stages, depths 1"),
        ({"backbone_config": {"model_type": "resnet", "depths": [0, 1, 1, 1]}},
         r"depths \[0, 1, 1, 1\]: expected whole numbers in 1\.\."),
        ({"backbone_config": {"model_type": "resnet", "out_features": ["stem"]}},
         r"out_indices \['stem'\]: expected stages 1\.\.4"),
        ({"backbone_config": {"model_type": "resnet", "layer_type": "x"}}, "expected 'basic' or"),
        ({"backbone_config": [1]}, r"backbone_config \[1\]: expected an object"),
        ({**DAB, "query_dim": 2}, "query_dim 2 is not supported, only 4"),
        ({**DAB, "temperature_width": 10}, "temperature_width 10 is not supported, only 20"),
        ({**DAB, "normalize_before": True}, "normalize_before True is not supported, only False"),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_named(
    tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    with pytest.raises(BundleError, match=message):
        bundle(tmp_path, {**DETR, **config})


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "preprocessor_config.json: expected an object, found a list"),
        ({"size": "large"}, "size 'large': expected a number or an object"),
        ({"size": {}}, "size {}: expected shortest_edge and longest_edge"),
        ({"size": {"shortest_edge": 10**6}}, r"shortest_edge 1000000: expected .* 1\.\.10000"),
        ({"size": {"height": 5.5, "width": 3}}, r"height 5\.5: expected a whole number"),
        ({"pad_size": 64}, "pad_size 64: expected an object"),
        ({"resample": 9}, "resample 9: expected a whole number in 0..5"),
        ({"rescale_factor": 0}, "rescale_factor 0.0: expected a number above 0"),
        ({"image_mean": [0.5]}, r"image_mean \[0.5\]: expected 3 numbers, one per channel"),
        ({"image_std": [1, 0, 1]}, "image_std: a deviation is 0"),
        ({"image_mean": ["a", 0, 0]}, "image_mean 'a': expected a number"),
    ],
)
def test_broken_processors(tmp_path: Path, images: Any, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        bundle(tmp_path, DETR, images)
