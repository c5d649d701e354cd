"""GeneralizedAttention against its sums written out."""

import math

import pytest
import torch
from torch import Tensor

from cupola.models.layers.generalized_attention import GeneralizedAttention


def waves(apart: float, size: int) -> Tensor:
    """The position encoding of a distance, [size / 2]."""
    lengths = 1000 ** (4.0 / size * torch.arange(0, size / 4))
    return torch.cat(((apart / lengths).sin(), (apart / lengths).cos()))


@torch.no_grad()
@pytest.mark.parametrize("terms", ["0100", "0101"])
def test_positions(terms: str) -> None:
    """Without the fourth term rows are compared with the queries of the transposed map, as mmcv."""
    torch.manual_seed(0)
    layer = GeneralizedAttention(8, num_heads=2, attention_type=terms)
    layer.gamma.fill_(1.0)
    x = torch.randn(1, 8, 3, 3)
    assert layer.query_conv and layer.appr_geom_fc_x and layer.appr_geom_fc_y
    queries = layer.query_conv(x)[0].view(2, 4, 3, 3)
    values = layer.value_conv(x[..., ::2, ::2])[0].view(2, 4, 4)
    bias = torch.zeros(2, 4) if layer.geom_bias is None else layer.geom_bias.view(2, 4)
    out = torch.zeros(2, 4, 3, 3)
    for head in range(2):
        for i in range(3):
            for j in range(3):
                energy = torch.zeros(2, 2)
                place = (j, i) if terms == "0100" else (i, j)
                for k in range(2):
                    rows = layer.appr_geom_fc_y(waves(i - 2 * k, 8)).view(2, 4)[head]
                    columns = layer.appr_geom_fc_x(waves(j - 2 * k, 8)).view(2, 4)[head]
                    by_rows = queries[head, :, *place] + bias[head]
                    by_columns = queries[head, :, i, j] + bias[head]
                    energy[k] += by_rows @ rows / math.sqrt(2)
                    energy[:, k] += by_columns @ columns / math.sqrt(2)
                out[head, :, i, j] = values[head] @ energy.flatten().softmax(0)
    expected = x + layer.proj_conv(out.view(1, 8, 3, 3))
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


def test_maps_that_are_not_square() -> None:
    layer = GeneralizedAttention(8, num_heads=2, attention_type="0100")
    with pytest.raises(ValueError, match="takes square maps, as in mmcv; got 3 x 4"):
        layer(torch.randn(1, 8, 3, 4))
