"""DETR3D at full size against MMDetection3D 1.4.0, number by number."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from cupola.models.detr3d.feature_sampling import Pyramid, gather_dense, sample_levels
from cupola.models.detr3d.references import to_meters
from cupola.models.layers import inverse_sigmoid
from cupola.registry import build
from cupola.structures import boxes3d
from golden import Golden, golden


@dataclass
class Case:
    """A golden, its model in eval mode, and its batch."""

    golden: Golden
    model: Any
    batch: dict[str, Any]
    tolerance: float


# Gradients that do not pass through many layers agree to 1e-3 in float32. On the way to the others,
# ReLUs and image borders within rounding of 0 switch: float32 differs from float64 by up to 1.5e-2
# of the largest value, differently on every processor, and the golden by up to 6e-3. Float64 gives
# the same gradients everywhere.
SMOOTH = (
    "layers.5.attentions.1.output_proj.weight",
    "cls_branches.5.6.weight",
    "reg_branches.0.4.weight",
    "lateral_convs.0.conv.bias",
)
CASES = {
    "detr3d_r50": 2e-3,
    "detr3d_r101_dcn": 5e-3,
}


@pytest.fixture(
    scope="module", params=[pytest.param("detr3d_r50", marks=pytest.mark.slow), "detr3d_r101_dcn"]
)
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    peer = golden(request.param)
    model = build(peer.config["model"])
    state = model.state_dict()
    weights = peer.weights()
    assert [key for key in state if key != "pts_bbox_head.code_weights"] == list(weights)
    model.load_state_dict(
        {**weights, "pts_bbox_head.code_weights": state["pts_bbox_head.code_weights"]}
    )
    shape = peer.json["inputs"]["image"]["shape"]
    batch = {
        "pixels": peer.image("image", shape[1:]).view(shape),
        "lidar2img": peer.stored("lidar2img"),
        "image_size": tuple(peer.config["pad_shape"]),
        "targets": [
            {"boxes": peer.stored("gt_boxes0"), "labels": peer.stored("gt_labels0").long()}
        ],
    }
    yield Case(peer, model.eval(), batch, CASES[request.param])


@pytest.fixture(scope="module")
def seen(case: Case) -> dict[str, Any]:
    """Feature maps, decoder states and outputs of one forward pass with its graph."""
    case.model.zero_grad()
    stages = case.model.img_backbone(case.batch["pixels"].flatten(0, 1))
    levels = tuple(each.unflatten(0, (1, 6)) for each in case.model.img_neck(stages))
    cameras = case.model.cameras(case.batch["lidar2img"], case.batch["image_size"])
    decoded = case.model.pts_bbox_head.decode(levels, cameras)
    output = case.model.pts_bbox_head.read(decoded)
    return {
        "stages": stages,
        "levels": levels,
        "cameras": cameras,
        "decoded": decoded,
        "output": output,
    }


def test_features(case: Case, seen: dict[str, Any]) -> None:
    assert case.golden.relative("backbone_stage4", seen["stages"][-1]) < 2e-4
    for i, level in enumerate(seen["levels"]):
        assert case.golden.difference(f"fpn{i}", level) < 2e-3


def test_first_decoder_layer(case: Case, seen: dict[str, Any]) -> None:
    head = case.model.pts_bbox_head
    decoded, cameras = seen["decoded"], seen["cameras"]
    position, query = head.query_embedding.weight[:, None].chunk(2, dim=-1)
    layer = head.transformer.decoder.layers[0]
    with torch.no_grad():
        attended = layer.attentions[0](query, query, query, None, query_pos=position)
        normed = layer.norms[0](attended)
        references = decoded.references[0].float()
        looked = layer.attentions[1](
            normed,
            None,
            Pyramid(seen["levels"]),
            query_pos=position,
            reference_points=references,
            cameras=cameras,
        )
        projection = cameras.project(to_meters(references, head.pc_range))
        sampled = sample_levels(seen["levels"], projection)  # [B, C, Q, N, L]
    visible = projection.visible
    assert case.golden.difference("layer0_self_attn", attended) < 1e-4
    assert case.golden.difference("layer0_cross_attn", looked) < 2e-3
    assert case.golden.difference("layer0_mask", visible.transpose(1, 2)) == 0
    seen_at = projection.uv * visible[..., None]
    assert case.golden.difference("layer0_pt_cam_visible", seen_at) < 1e-5
    assert case.golden.difference("layer0_sampled_feats", sampled.unsqueeze(4)) < 5e-3


def test_every_layer(case: Case, seen: dict[str, Any]) -> None:
    decoded, output = seen["decoded"], seen["output"]
    assert case.golden.difference("inter_states", decoded.states.transpose(1, 2)) < 5e-3
    assert case.golden.difference("init_reference", decoded.references[0]) < 1e-6
    refined = torch.cat((decoded.references[1:], decoded.refined[None]))
    assert case.golden.difference("inter_references", refined) < 1e-4
    assert case.golden.difference("all_cls_scores", output.logits) < case.tolerance
    assert case.golden.difference("all_bbox_preds", output.boxes) < case.tolerance


def test_decoded_boxes(case: Case, seen: dict[str, Any]) -> None:
    found = case.model.pts_bbox_head.predict(seen["output"])[0]
    boxes, scores = case.golden.output("pred0_boxes"), case.golden.output("pred0_scores")
    labels = case.golden.output("pred0_labels")
    assert len(found) == len(scores)
    assert (found.scores - scores).abs().max() < 1e-3
    # Neighbors with nearly equal scores may be swapped: look each row up by class and place.
    exact = "donot_use_mm_for_euclid_dist"
    distance = torch.cdist(found.boxes, boxes, compute_mode=exact)
    distance = distance + 1e3 * (found.labels[:, None] != labels)
    assert distance.min(1).values.max() < 3 * case.tolerance
    assert distance.min(0).values.max() < 3 * case.tolerance


def test_matching_losses_and_gradients(case: Case, seen: dict[str, Any]) -> None:
    head, target = case.model.pts_bbox_head, case.batch["targets"][0]
    boxes = boxes3d.bottom_to_center(target["boxes"])
    (assigned,) = head.match(seen["output"], [target["labels"]], [boxes])
    for layer in range(6):
        expected = case.golden.output(f"assigned_gt_layer{layer}")[0]
        assert torch.equal(assigned[layer], expected.long())
    losses = head.loss(seen["output"], case.batch["targets"])
    for name, value in losses.items():
        expected = case.golden.output(f"loss/{name}").item()
        assert value.item() == pytest.approx(expected, rel=1e-4), name
    total = sum(losses.values())
    assert total.item() == pytest.approx(case.golden.output("loss_total").item(), rel=1e-4)
    total.backward()
    for name, gradient in gradients(case.golden, case.model).items():
        if name.endswith(SMOOTH):
            assert case.golden.relative(name, gradient) < 1e-3, name


def gradients(peer: Golden, model: Any) -> dict[str, Tensor]:
    """The gradients that the golden has, by its names."""
    parameters: dict[str, Tensor] = dict(model.named_parameters())
    names = [name for name in peer.json["outputs"] if name.startswith("grad/")]
    return {name: parameters[name.removeprefix("grad/")].grad for name in names}


@pytest.mark.slow
def test_gradients_in_double_precision(case: Case) -> None:
    model = copy.deepcopy(case.model).to(torch.float64)
    batch = {**case.batch, "pixels": case.batch["pixels"].double()}
    batch["lidar2img"] = case.batch["lidar2img"].double()
    batch["targets"] = [{**each, "boxes": each["boxes"].double()} for each in batch["targets"]]
    sum(model.loss(batch).values()).backward()
    for name, gradient in gradients(case.golden, model).items():
        bound = 1e-3 if name.endswith(SMOOTH) else 8e-3
        assert case.golden.relative(name, gradient) < bound, name


def test_sampling_visible_pairs_equals_sampling_all_pairs(case: Case, seen: dict[str, Any]) -> None:
    levels = tuple(level.detach() for level in seen["levels"])
    projection = seen["cameras"].project(
        to_meters(seen["decoded"].references[0], case.model.pts_bbox_head.pc_range)
    )
    weights = torch.rand(1, 6, 900, 4, generator=torch.Generator().manual_seed(0))
    sparse = Pyramid(levels).gather(projection, weights)
    dense = gather_dense(levels, projection, weights)
    torch.testing.assert_close(sparse, dense, rtol=0, atol=1e-3)


def test_inverse_sigmoid_keeps_the_ends_finite() -> None:
    ends = inverse_sigmoid(torch.tensor([0.0, 0.5, 1.0]))
    assert ends.tolist() == pytest.approx([-11.5129, 0.0, 11.5129], abs=1e-3)
