"""Constants of a shape are computed once, and equal what is computed each time."""

import copy
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from cupola import nn
from cupola.models.boxes import AnchorGenerator
from cupola.models.constants import CONSTANTS, ConstantCache
from cupola.models.layers import SinePositionalEncoding
from cupola.models.layers.position_encoding import sine_positions

LIKE = torch.zeros(1)


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 3),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    normalize=st.booleans(),
    padded=st.booleans(),
    inference=st.booleans(),
)
def test_encodings_of_the_cache_equal_those_computed_from_the_mask(
    batch, height, width, normalize, padded, inference
):
    encoding = SinePositionalEncoding(8, normalize=normalize, offset=-0.5)
    mask = torch.zeros(batch, height, width, dtype=torch.bool)
    if padded:
        mask[-1, height // 2 + 1 :] = True
        mask[-1, :, width // 2 + 1 :] = True
    with torch.inference_mode(inference):
        first, second = encoding(mask), encoding(mask)
        expected = sine_positions(encoding, mask)
    assert torch.equal(first, expected)
    assert torch.equal(second, expected)


def test_constants_of_inference_serve_training_and_leave_no_state():
    encoding, mask = SinePositionalEncoding(16), torch.zeros(1, 4, 23, dtype=torch.bool)
    with torch.inference_mode():
        encoding(mask)
    weight = torch.ones(1, requires_grad=True)
    (encoding(mask) * weight).sum().backward()
    assert weight.grad is not None
    assert not encoding.state_dict()
    assert torch.equal(copy.deepcopy(encoding)(mask), encoding(mask))


def test_the_cache_is_bounded_and_forgets_what_was_not_used():
    cache = ConstantCache(limit=100)
    for number in range(30):
        cache.get(number, LIKE, lambda: torch.zeros(5))  # 20 bytes
        cache.get(0, LIKE, lambda: torch.zeros(5))
        assert cache.size <= 100
    assert len(cache) == 5
    assert cache.get(0, LIKE, lambda: torch.ones(5))[0] == 0
    assert cache.get(1, LIKE, lambda: torch.ones(5))[0] == 1
    assert cache.get("large", LIKE, lambda: torch.zeros(99)).shape == (99,)
    assert len(cache) == 5


def test_threads_get_equal_constants():
    cache, found = ConstantCache(limit=4000), []

    def ask():
        for number in range(200):
            number %= 7
            constant = cache.get(number, LIKE, lambda n=number: torch.full((90,), float(n)))
            found.append(bool((constant == number).all()))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(found) == 800
    assert all(found)
    assert 0 < cache.size <= 4000


def test_traced_programs_and_simulated_tensors_leave_nothing_behind():
    before = len(CONSTANTS)
    encoding = SinePositionalEncoding(4)
    with FakeTensorMode():
        encoding(torch.zeros(1, 31, 37, dtype=torch.bool))
    mask = torch.zeros(2, 31, 37, dtype=torch.bool)
    sides = {1: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC}
    program = torch.export.export(nn.to_torch(encoding), (mask,), dynamic_shapes=(sides,))
    assert len(CONSTANTS) == before
    mask = torch.zeros(2, 12, 9, dtype=torch.bool)
    mask[0, 7:] = True
    torch.testing.assert_close(program.module()(mask), encoding(mask))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_anchors_of_the_cache_equal_those_computed_each_time(dtype):
    anchors = AnchorGenerator(strides=[4, 8], ratios=[0.5, 1.0], scales=[8])
    maps = [torch.zeros(1, 1, h, w, dtype=dtype) for h, w in ((6, 5), (3, 3))]
    first, second = anchors(maps), anchors(maps)
    for a, b, base, (stride, _), level in zip(
        first, second, anchors.base_anchors, anchors.strides, maps, strict=True
    ):
        assert a.dtype == dtype
        assert torch.equal(a, b)
        h, w = level.shape[-2:]
        y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        corners = torch.stack((x, y, x, y), -1).reshape(-1, 1, 4) * stride
        torch.testing.assert_close(a, (corners + base).reshape(-1, 4).to(dtype))
