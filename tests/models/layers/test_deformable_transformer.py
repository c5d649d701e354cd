"""The deformable layers: their keys, padding, and references of points and boxes."""

from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.models.layers import (
    DeformableDetrTransformerDecoder,
    DeformableDetrTransformerEncoder,
    FeatureLevels,
    MultiScaleDeformableAttention,
    SinePositionalEncoding,
    encode_references,
    flatten_levels,
    refine_boxes,
)
from cupola.models.layers.feature_levels import cell_centers, valid_ratio
from cupola.registry import build

ATTENTION = {"embed_dims": 16, "num_heads": 2, "num_levels": 2, "num_points": 3, "dropout": 0.0}
LAYER = {"self_attn_cfg": ATTENTION, "ffn_cfg": {"embed_dims": 16, "feedforward_channels": 8}}


def perturbed(module: Any) -> Any:
    """The module with all parameters away from their initial values."""
    draw = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        parameter.data += torch.randn(parameter.shape, generator=draw) * 0.3
    return module.eval()


def levels_of(maps: list[Tensor], mask: Tensor | None) -> FeatureLevels:
    encoding = SinePositionalEncoding(8, normalize=True)
    embed = torch.arange(32.0).view(2, 16) / 32
    return flatten_levels(maps, mask, encoding, embed)


def test_state_keys_are_those_of_mmcv() -> None:
    attention = build({"type": "MultiScaleDeformableAttention", "embed_dims": 32})
    assert {key: tuple(value.shape) for key, value in attention.state_dict().items()} == {
        "sampling_offsets.weight": (256, 32),
        "sampling_offsets.bias": (256,),
        "attention_weights.weight": (128, 32),
        "attention_weights.bias": (128,),
        "value_proj.weight": (32, 32),
        "value_proj.bias": (32,),
        "output_proj.weight": (32, 32),
        "output_proj.bias": (32,),
    }


def test_untrained_heads_look_in_all_directions_with_equal_weights() -> None:
    attention = MultiScaleDeformableAttention(**{**ATTENTION, "num_heads": 4, "num_levels": 1})
    query = torch.randn(1, 1, 16)
    locations, weights = attention.sampling(query, torch.full((1, 1, 1, 2), 0.5), [(10, 20)])
    assert weights.unique().item() == torch.tensor(1 / 3)
    cells = (locations[0, 0, :, 0] - 0.5) * torch.tensor([20, 10])  # [M, P, 2]
    expected = [[[p, 0], [0, p], [-p, 0], [0, -p]] for p in (1, 2, 3)]
    torch.testing.assert_close(
        cells.transpose(0, 1), torch.tensor(expected).float(), atol=1e-5, rtol=0
    )


def test_offsets_around_boxes_are_fractions_of_their_size() -> None:
    attention = MultiScaleDeformableAttention(**{**ATTENTION, "num_heads": 4, "num_levels": 1})
    box = torch.tensor([0.4, 0.6, 0.2, 0.3]).view(1, 1, 1, 4)
    locations, _ = attention.sampling(torch.randn(1, 1, 16), box, [(10, 20)])
    right = locations[0, 0, 0, 0]  # the first head looks to the right
    torch.testing.assert_close(right[:, 0], 0.4 + torch.tensor([1.0, 2.0, 3.0]) / 3 * 0.1)


def test_sequence_first_is_the_same_attention_transposed() -> None:
    attention = perturbed(MultiScaleDeformableAttention(**ATTENTION))
    query, value = torch.randn(2, 5, 16), torch.randn(2, 8, 16)
    settings = {"reference_points": torch.rand(2, 5, 2, 2), "spatial_shapes": [(2, 3), (1, 2)]}
    attention.batch_first = True
    expected = attention(query, value=value, query_pos=query, **settings)
    attention.batch_first = False
    first = query.transpose(0, 1)
    found = attention(first, value=value.transpose(0, 1), query_pos=first, **settings)
    torch.testing.assert_close(found.transpose(0, 1), expected)


def test_padding_changes_nothing_inside_an_image() -> None:
    """Padding on the right and below, by whole cells of the coarsest level."""
    encoder = perturbed(DeformableDetrTransformerEncoder(2, LAYER))
    fine, coarse = torch.randn(1, 16, 4, 6), torch.randn(1, 16, 2, 3)
    mask = torch.zeros(1, 12, 16, dtype=torch.bool)
    mask[:, 8:] = True
    mask[:, :, 12:] = True
    padded_maps = []
    for each in (fine, coarse):
        h, w = each.shape[-2:]
        padded = torch.randn(1, 16, h * 3 // 2, w * 4 // 3)
        padded[:, :, :h, :w] = each
        padded_maps.append(padded)
    plain = encoder(levels_of([fine, coarse], None))
    levels = levels_of(padded_maps, mask)
    memory = encoder(levels)
    assert levels.padding is not None
    assert levels.shapes == ((6, 8), (3, 4))
    torch.testing.assert_close(memory[:, ~levels.padding[0]], plain, atol=1e-5, rtol=0)


def test_no_mask_equals_an_all_false_mask() -> None:
    maps = [torch.randn(2, 16, 4, 6), torch.randn(2, 16, 2, 3)]
    without = levels_of(maps, None)
    masked = levels_of(maps, torch.zeros(2, 8, 12, dtype=torch.bool))
    torch.testing.assert_close(without.positions, masked.positions)
    torch.testing.assert_close(without.valid_ratios, masked.valid_ratios)
    torch.testing.assert_close(cell_centers(without), cell_centers(masked))


def test_valid_ratio_and_centers() -> None:
    mask = torch.zeros(1, 4, 10, dtype=torch.bool)
    mask[:, 3:] = True
    mask[:, :, 5:] = True
    assert valid_ratio(mask).tolist() == [[0.5, 0.75]]


def test_decoder_refines_boxes_layer_by_layer() -> None:
    attention = {"embed_dims": 16, "num_heads": 2}
    layer = {**LAYER, "self_attn_cfg": attention, "cross_attn_cfg": ATTENTION}
    decoder = perturbed(DeformableDetrTransformerDecoder(3, layer))
    levels = levels_of([torch.randn(2, 16, 4, 6), torch.randn(2, 16, 2, 3)], None)
    branches = nn.ModuleList(nn.Linear(16, 4) for _ in range(3))
    query, points = torch.randn(2, 5, 16), torch.rand(2, 5, 2)
    decoded = decoder(query, query, points, levels.cells, levels, branches)
    assert decoded.states.shape == (3, 2, 5, 16)
    assert [each.shape[-1] for each in decoded.references] == [2, 4, 4]
    expected = refine_boxes(points, branches[0](decoded.states[0]))
    torch.testing.assert_close(decoded.references[1], expected)
    assert not decoded.references[1].requires_grad
    fixed = decoder(query, query, points, levels.cells, levels, None)
    assert all(torch.equal(each, points) for each in fixed.references)


def test_coordinates_are_encoded_y_first() -> None:
    box = torch.tensor([0.1, 0.2, 0.3, 0.4])
    encoded = encode_references(box, 6, temperature=20).view(4, 6)
    for row, value in zip(encoded, (0.2, 0.1, 0.3, 0.4), strict=True):
        angle = value * 2 * torch.pi / 20 ** (torch.tensor([0.0, 1.0, 2.0]) / 3)
        torch.testing.assert_close(row, torch.stack((angle.sin(), angle.cos()), -1).flatten())


def test_conv_modules_name_their_norm_as_mmcv_does() -> None:
    norms = {"bn": {"type": "BN"}, "gn": {"type": "GN", "num_groups": 2}}
    for name, norm in norms.items():
        module = build({"type": "ConvModule", "in_channels": 2, "out_channels": 4,
                        "kernel_size": 1, "norm_cfg": norm})  # fmt: skip
        assert f"{name}.weight" in module.state_dict()
        assert module(torch.randn(1, 2, 3, 3)).min() >= 0
