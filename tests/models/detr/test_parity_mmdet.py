"""DETR at full size against mmdet 3.3.0, number by number, from configs of both versions."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from cupola.models.detr.preprocessor import DetDataPreprocessor
from cupola.models.layers import feature_mask
from cupola.registry import build
from golden import golden

GOLDEN = golden("detr_mmdet")


@pytest.fixture(scope="module")
def model() -> Iterator[object]:
    model = build(GOLDEN.config["model"])
    model.load_state_dict(GOLDEN.weights())
    yield model.eval()


@pytest.fixture(scope="module")
def batch() -> dict[str, object]:
    pixels = GOLDEN.image("image", [2, 3, 512, 640])
    mask = torch.ones(2, 512, 640, dtype=torch.bool)
    sizes = [tuple(meta["img_shape"]) for meta in GOLDEN.json["inputs"]["metas"]]
    for i, (h, w) in enumerate(sizes):
        mask[i, :h, :w] = False
    pixels[mask[:, None].expand_as(pixels)] = 0
    return {
        "pixels": pixels,
        "padding_mask": mask,
        "image_sizes": sizes,
        "scale_factors": [m["scale_factor_wh"] for m in GOLDEN.json["inputs"]["metas"]],
        "targets": [
            {"boxes": GOLDEN.stored(f"gt_bboxes{i}"), "labels": GOLDEN.stored(f"gt_labels{i}")}
            for i in range(2)
        ],
    }


def test_state_dict_has_the_keys_and_the_order_of_the_original(model) -> None:
    assert list(model.state_dict()) == [key for key, *_ in GOLDEN.json["weights"]["keys"]]


def test_every_step_of_the_forward_pass(model, batch) -> None:
    with torch.no_grad():
        stage4 = model.backbone(batch["pixels"])[-1]
        features = model.neck((stage4,))[-1]
        padding = feature_mask(batch["padding_mask"], features)
        memory, pos = model.encode(features, padding)
        hidden = model.decode(memory, pos, padding)
        output = model(batch["pixels"], batch["padding_mask"])
    assert GOLDEN.relative("backbone_stage4", stage4) < 1e-5
    assert GOLDEN.difference("neck", features) < 1e-3
    assert GOLDEN.difference("feat_mask", padding.flatten(1)) == 0
    assert GOLDEN.difference("pos_embed", pos) < 1e-5
    assert GOLDEN.difference("memory", memory) < 1e-3
    assert GOLDEN.difference("decoder_hidden_states", hidden) < 1e-3
    assert GOLDEN.difference("all_cls_scores", output.logits) < 1e-3
    assert GOLDEN.difference("all_bbox_preds", output.boxes) < 1e-4


def test_predictions(model, batch) -> None:
    for rescale in (True, False):
        factors = batch["scale_factors"] if rescale else None
        for i, found in enumerate(model.predict({**batch, "scale_factors": factors})):
            name = f"pred{i}_bboxes" + ("" if rescale else "_no_rescale")
            assert GOLDEN.difference(name, found.boxes) < 0.1
            assert GOLDEN.difference(f"pred{i}_scores", found.scores) < 1e-3
            assert GOLDEN.difference(f"pred{i}_labels", found.labels) == 0


# Activations within rounding of 0 on the way to these gradients change sign, and their ReLU
# switches: in float32 they differ from float64 by up to 6e-3 of the largest value, differently on
# every processor and with every number of threads, and so does the golden.
SWITCHED = {
    "encoder.layers.0.self_attn.attn.in_proj_weight": 5e-3,
    "neck.convs.0.conv.bias": 5e-3,
    "backbone.layer4.2.conv3.weight": 5e-3,
}
# Nothing but the heads lies between these and the losses.
SMOOTH = (
    "decoder.layers.5.cross_attn.attn.out_proj.weight",
    "bbox_head.fc_cls.weight",
    "bbox_head.fc_reg.weight",
)


def gradients(model, losses) -> dict[str, Tensor]:
    """Gradients of the summed losses with respect to the parameters that the golden names."""
    model.zero_grad()
    sum(losses.values()).backward()
    parameters: dict[str, Tensor] = dict(model.named_parameters())
    names = [n.removeprefix("grad/") for n in GOLDEN.json["outputs"] if n.startswith("grad/")]
    return {name: parameters[name].grad for name in names}


def test_matching_losses_and_gradients(model, batch) -> None:
    output = model(batch["pixels"], batch["padding_mask"])
    assignments = model.bbox_head.assign(output, batch["targets"], batch["image_sizes"])
    for layer in range(6):
        expected = GOLDEN.output(f"assigned_gt_layer{layer}")
        positive = torch.stack([each.positive[layer] for each in assignments])
        assert torch.equal(positive, expected >= 0)
    losses = model.bbox_head.loss(output, batch["targets"], batch["image_sizes"])
    for name, value in losses.items():
        expected = float(GOLDEN.output(f"loss/{name}"))
        assert value.item() == pytest.approx(expected, rel=1e-4), name
    found = gradients(model, losses)
    for name in SMOOTH:
        assert GOLDEN.relative(f"grad/{name}", found[name]) < 1e-3, name


@pytest.mark.slow
def test_gradients_in_double_precision(model, batch) -> None:
    """Float64 gives the same gradients on every processor; the bounds are the golden's rounding."""
    exact = copy.deepcopy(model).to(torch.float64)
    found = gradients(exact, exact.loss({**batch, "pixels": batch["pixels"].double()}))
    assert found.keys() > SWITCHED.keys()
    for name, gradient in found.items():
        assert GOLDEN.relative(f"grad/{name}", gradient) < SWITCHED.get(name, 5e-4), name


def test_no_mask_equals_an_all_false_mask(model, batch) -> None:
    pixels = batch["pixels"][:, :, :128, :160]
    with torch.no_grad():
        plain = model(pixels)
        masked = model(pixels, torch.zeros(2, 128, 160, dtype=torch.bool))
    torch.testing.assert_close(plain.logits, masked.logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(plain.boxes, masked.boxes, rtol=0, atol=1e-6)


def test_preprocessor_swaps_normalizes_and_pads() -> None:
    preprocess = golden("preprocess_mmdet")
    module = DetDataPreprocessor(bgr_to_rgb=True, pad_size_divisor=1)
    images = module([preprocess.stored("image0"), preprocess.stored("image1")])
    name = next(iter(preprocess.json["outputs"]))
    assert preprocess.difference(name, images.pixels) < 1e-5
    assert images.sizes == [(37, 53), (41, 29)]
    assert images.padding_mask is not None
    assert images.padding_mask[0, 37:].all()
    assert not images.padding_mask[0, :37, :53].any()
