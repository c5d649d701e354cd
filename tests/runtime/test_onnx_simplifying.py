"""Large ONNX graphs are simplified without the rule that compares all pairs of nodes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cupola.runtime.export import OPSET
from cupola.runtime.onnx_simplifying import simplify

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


class Small(torch.nn.Module):
    """What rules simplify: batch norms, casts and constants, and slices that could be a split."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.conv(x))) + torch.arange(6).float() * 2.0
        return x[:, :2] * 1 - x[:, 2:].double().float()


def program(model: Small) -> Any:
    example = (torch.randn(1, 3, 4, 6),)
    settings = {"opset_version": OPSET, "dynamo": True, "verbose": False, "optimize": False}
    return torch.onnx.export(model, example, **settings)


@pytest.mark.slow
def test_small_and_large_graphs_become_the_same(tmp_path: Path) -> None:
    import onnxruntime

    torch.manual_seed(0)
    model, found = Small().eval(), []
    torch.nn.init.uniform_(model.norm.running_mean)
    x = torch.randn(1, 3, 4, 6)
    for name, large in (("own", 0), ("torch", 10**6)):
        made = program(model)
        before = made.model.graph.num_nodes()
        simplify(made, large)
        kinds = sorted(node.op_type for node in made.model.graph)
        assert len(kinds) < before and "BatchNormalization" not in kinds
        made.save(str(tmp_path / name), external_data=False)
        session = onnxruntime.InferenceSession(
            str(tmp_path / name), providers=["CPUExecutionProvider"]
        )
        (result,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        np.testing.assert_allclose(result, model(x).detach().numpy(), atol=1e-5)
        found.append([kind for kind in kinds if kind not in ("Slice", "Split")])
    assert found[0] == found[1]
