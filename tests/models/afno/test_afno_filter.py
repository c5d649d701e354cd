"""The filter against a plain implementation of the paper, and its selection of modes."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cupola.errors import BuildError, InputError
from cupola.models.afno import AFNO1D, AFNO2D
from cupola.models.afno.modes import lowpass_modes, mode_rule


def plain_filter(layer: AFNO2D, x: Tensor) -> Tensor:
    """Real arithmetic on zero-filled spectra, as in the published implementations."""
    B, H, W, _ = x.shape
    shape = (B, H, W // 2 + 1, layer.num_blocks, layer.block_size)
    z = torch.fft.rfft2(x, dim=(1, 2), norm="ortho").reshape(shape)
    modes = layer.rule(H, W, layer.fraction)
    kept = torch.zeros(H, W // 2 + 1, dtype=torch.bool)
    for start, stop in modes.rows:
        kept[start:stop, : modes.columns] = True
    times = "bhwgi,gio->bhwgo"
    (w1r, w1i), (b1r, b1i) = layer.w1, layer.b1
    (w2r, w2i), (b2r, b2i) = layer.w2, layer.b2
    e = torch.einsum
    hr = F.relu(e(times, z.real, w1r) - e(times, z.imag, w1i) + b1r)
    hi = F.relu(e(times, z.imag, w1r) + e(times, z.real, w1i) + b1i)
    out_r = F.softshrink(e(times, hr, w2r) - e(times, hi, w2i) + b2r, layer.sparsity_threshold)
    out_i = F.softshrink(e(times, hi, w2r) + e(times, hr, w2i) + b2i, layer.sparsity_threshold)
    out = torch.complex(out_r, out_i) * kept[None, :, :, None, None]
    return torch.fft.irfft2(out.flatten(3), s=(H, W), dim=(1, 2), norm="ortho") + x


def lively(channels: int = 24, blocks: int = 4, **keys: object) -> AFNO2D:
    layer = AFNO2D(channels, blocks, **keys)  # type: ignore[arg-type]
    for parameter in layer.parameters():
        parameter.data.normal_(std=0.3)
    return layer


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 13),
    st.integers(1, 17),
    st.sampled_from([1.0, 0.7, 0.5, 0.2]),
    st.sampled_from(["fourcastnet", "transformer", "columns", "lowpass"]),
    st.integers(1, 2),
)
def test_equals_the_plain_filter_on_any_grid(
    height: int, width: int, fraction: float, modes: str, factor: int
) -> None:
    layer = lively(hard_thresholding_fraction=fraction, modes=modes, hidden_size_factor=factor)
    x = torch.randn(2, height, width, 24)
    expected = plain_filter(layer, x)
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("grid", [(16, 32), (14, 14), (30, 60), (90, 180)])
def test_exact_filter_is_bit_equal_to_the_plain_one(grid: tuple[int, int]) -> None:
    layer = lively(96, 8, exact=True)
    x = torch.randn(1, *grid, 96)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), plain_filter(layer, x), atol=5e-7, rtol=1e-6)
        pruned = AFNO2D(96, 8)
        pruned.load_state_dict(layer.state_dict())
        expected = layer(x)
        assert (pruned(x) - expected).abs().max() <= 1e-6 * expected.abs().max()


def test_all_blocks_at_once_as_on_a_gpu_equal_one_by_one() -> None:
    layer = lively(hard_thresholding_fraction=0.5, modes="lowpass")
    x = torch.randn(2, 12, 20, 24)
    first, second = (
        layer._layer(w, b, x.dtype) for w, b in ((layer.w1, layer.b1), (layer.w2, layer.b2))
    )
    modes = layer.rule(12, 20, layer.fraction)
    torch.testing.assert_close(layer._mix_blocks(x, first, second, None, modes) + x, layer(x))


def test_gain_can_represent_a_shift_but_the_plain_filter_cannot() -> None:
    layer = AFNO2D(4, 2, modes="lowpass", gain_grid=(8, 8))
    for parameter in (layer.w1, layer.b1, layer.w2, layer.b2):
        parameter.data.zero_()
    assert layer.gain is not None
    wave = torch.fft.rfftfreq(8, 1 / 8)[None, :, None]
    factor = torch.exp(-2j * torch.pi * wave / 8).expand(8, 5, 4) - 1  # the filter adds its input
    layer.gain.data.copy_(torch.view_as_real(factor))
    x = torch.randn(2, 8, 8, 4)
    x = x - (x * torch.tensor([1.0, -1.0] * 4)[:, None]).mean(2, keepdim=True) * torch.tensor(
        [1.0, -1.0] * 4
    ).view(1, 1, 8, 1)  # a shift of the highest frequency is not real
    torch.testing.assert_close(layer(x), x.roll(1, dims=2), atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), x.roll(1, dims=2), atol=1e-5, rtol=1e-5)
    with pytest.raises(InputError, match=r"gain was made for another grid than \[4, 8\]"):
        layer(torch.randn(1, 4, 8, 4))


def test_gradients_in_double_precision() -> None:
    layer = lively(4, 2)
    for parameter in layer.parameters():
        parameter.data = parameter.data.double()
    x = torch.randn(1, 5, 6, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))


def test_half_precision_inputs_give_half_precision_outputs() -> None:
    out = lively()(torch.randn(1, 4, 6, 24, dtype=torch.bfloat16))
    assert out.dtype == torch.bfloat16


def test_published_modes_on_a_wide_grid() -> None:
    modes = mode_rule("fourcastnet")(90, 180, 1.0)
    assert modes.rows == ((0, 90),)
    assert modes.columns == 46  # of 91: the rest of a wide grid passes by the skip only
    assert mode_rule("fourcastnet")(16, 32, 0.5).rows == ((5, 13),)  # around Nyquist, not zero
    assert mode_rule("transformer")(12, 20, 0.04).columns == 4
    assert mode_rule("columns")(12, 20, 0.5).columns == 5


def test_lowpass_keeps_the_low_frequencies_of_both_signs() -> None:
    modes = lowpass_modes(16, 32, 0.5)
    assert modes.rows == ((0, 4), (13, 16))  # 0..3 and -3..-1
    assert modes.columns == 8
    assert lowpass_modes(16, 32, 1.0).rows == ((0, 16),)
    assert lowpass_modes(16, 32, 1.0).columns == 17


def test_lowpass_filter_ignores_high_frequencies() -> None:
    layer = lively(8, 2, modes="lowpass", hard_thresholding_fraction=0.25, sparsity_threshold=0.0)
    column = torch.arange(32) * (2 * torch.pi * 12 / 32)  # wave number 12 of 16
    high = torch.cos(column)[None, None, :, None].expand(1, 32, 32, 8)
    torch.testing.assert_close(
        layer(high) - high, layer(torch.zeros_like(high)), atol=1e-5, rtol=1e-5
    )


def test_sequences() -> None:
    layer = AFNO1D(24, 4)
    x = torch.randn(2, 11, 24)
    assert layer(x).shape == x.shape


def test_errors_say_what_to_do() -> None:
    with pytest.raises(BuildError, match="did you mean 'fourcastnet'"):
        AFNO2D(8, 2, modes="forcastnet")
    with pytest.raises(BuildError, match="hidden_size 10 is not a multiple of num_blocks 4"):
        AFNO2D(10, 4)
    with pytest.raises(InputError, match=r"takes \[B, H, W, 8\], got \[1, 4, 4, 6\]"):
        AFNO2D(8, 2)(torch.zeros(1, 4, 4, 6))
