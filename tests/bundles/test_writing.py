"""Bundles of models whose layers share tensors, as the heads of RTMDet do."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cupola.bundles import write_bundle

ABOUT = {"name": "shared", "version": "1", "task": "detection", "model": {"type": "DETR"}}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_shared_tensors_are_written_under_each_name(tmp_path: Path, dtype: torch.dtype) -> None:
    weight, count = torch.randn(2, 3), torch.tensor(7)
    state = {"a.weight": weight, "b.weight": weight, "a.count": count, "b.count": count}
    state |= {"first": weight[0], "turned": weight.T}
    write_bundle(tmp_path / "shared", ABOUT, state, "# shared\n", dtype)
    stored = load_file(tmp_path / "shared" / "weights.safetensors")
    assert stored.keys() == state.keys()
    for key, value in state.items():
        wanted = value.to(dtype) if value.is_floating_point() else value
        assert torch.equal(stored[key], wanted), key
