"""FPN's levels, extra levels and errors."""

import pytest
import torch

from cupola.registry import MODELS


def maps(sizes=((16, 24), (8, 12), (4, 6))) -> list[torch.Tensor]:
    return [torch.randn(2, 8 * 2**i, *size) for i, size in enumerate(sizes)]


def build(**settings) -> torch.nn.Module:
    return MODELS.build({"type": "FPN", "in_channels": [8, 16, 32], "out_channels": 5, **settings})


@pytest.mark.parametrize("source", [False, True, "on_input", "on_lateral", "on_output"])
def test_extra_levels_halve_the_last(source) -> None:
    outs = build(num_outs=5, add_extra_convs=source, relu_before_extra_convs=True)(maps())
    assert [tuple(out.shape[1:]) for out in outs] == [
        (5, 16, 24),
        (5, 8, 12),
        (5, 4, 6),
        (5, 2, 3),
        (5, 1, 2),
    ]


def test_start_level_skips_the_finest() -> None:
    fpn = build(num_outs=2, start_level=1)
    assert len(fpn.lateral_convs) == 2
    assert [out.shape[-1] for out in fpn(maps())] == [12, 6]


def test_odd_sizes_are_resized_to_the_finer_level() -> None:
    outs = build(num_outs=3)(maps(((15, 23), (8, 12), (4, 6))))
    assert outs[0].shape[-2:] == (15, 23)


def test_errors() -> None:
    with pytest.raises(ValueError, match="num_outs is 2, but 3 inputs are used"):
        build(num_outs=2)
    with pytest.raises(ValueError, match="add_extra_convs is 'on_top'"):
        build(num_outs=4, add_extra_convs="on_top")
    with pytest.raises(ValueError, match="FPN expects 3 inputs, got 2"):
        build(num_outs=3)(maps()[:2])
