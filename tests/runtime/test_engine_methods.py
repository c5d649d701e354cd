"""The method that engines replace, of models with a state or a text: their image features."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cupola.files.wordpiece import read_bert_tokenizer
from cupola.registry import build
from cupola.runtime import tasks
from cupola.runtime.optimize import structure
from cupola.runtime.optimize.engines import Situation
from cupola.runtime.optimize.graphs import Replacement
from cupola.runtime.optimize.network import Network, with_shared_weights
from cupola.runtime.optimize.onnx_engines import NoProductsError, quantize
from cupola.runtime.optimize.registry import ENGINES
from cupola.runtime.predictors.detection3d import Detection3DPredictor
from cupola.runtime.predictors.text_detection import TextDetectionPredictor
from models.bevformer.small import small_bevformer
from models.grounding.small import WORDS, glip, grounding_dino
from models.petr.small import small_petr
from models.stream_petr.small import small_stream
from runtime.test_camera_streams import moment

TEMPORAL = {"with_fpe": True, "with_time": True, "with_multi": True}
CONFIGS = {
    "petr": small_petr(),
    "petrv2": small_petr("Petr3D", "PETRv2Head", **TEMPORAL),
    "stream_petr": small_stream(),
    "bevformer": small_bevformer(),
    "grounding_dino": grounding_dino(),
    "glip": glip(),
}


def predictor_of(name: str, folder: Path) -> Any:
    torch.manual_seed(0)
    model = build(CONFIGS[name]).eval()
    if hasattr(model, "text_search"):
        (folder / "vocab.txt").write_text("\n".join(WORDS))
        model.text_search.set_tokenizer(read_bert_tokenizer(folder / "vocab.txt"), "vocab.txt")
        return TextDetectionPredictor(name, "1", model, threshold=0.0, exact=(64, 96))
    return Detection3DPredictor(name, "1", model, size=(64, 96))


def answers(predictor: Any) -> Iterator[Any]:
    """Of an image for a text; of two frames of a stream, or two of no stream."""
    if not isinstance(predictor, Detection3DPredictor):
        pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
        yield predictor(pixels, text=["cat", "dog"])
    elif predictor.is_stream:
        stream = predictor.new_stream()
        yield from [stream(**moment(step), threshold=0) for step in range(2)]
    else:
        yield predictor(moment(0)["source"], moment(0)["lidar2img"], threshold=0)


def situation_of(predictor: Any, folder: Path | None = None) -> Situation:
    bundle: Any = type("NoExample", (), {"path": Path("nowhere"), "config": {}})
    task = tasks.find(predictor.task)
    sample = task.calibration_samples(predictor, bundle)[0]
    return Situation(predictor, predictor.model, sample, folder)


def same(found: list[Any], expected: list[Any]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.scores, other.scores, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(one.boxes, other.boxes, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_graph_takes_part_in_every_answer(name: str, tmp_path: Path) -> None:
    predictor = predictor_of(name, tmp_path)
    situation = situation_of(predictor)
    call, expected = situation.call(), list(answers(predictor))
    nesting = structure.described(situation.answer)
    model = with_shared_weights(predictor.model)
    network, calls = Network(model), []

    def graph(tensors: Any) -> list[torch.Tensor]:
        calls.append(len(tensors))
        return list(structure.tensors_of(network.original(*tensors)))

    if name == "petr":  # its forward takes the size of the images besides tensors
        assert network.method == "forward"
        return
    network.replace(Replacement(model, lambda: model, call, graph, nesting, dynamic=True))
    predictor.model = model
    same(list(answers(predictor)), expected)
    assert calls == [1] * len(expected)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", CONFIGS)
def test_onnxruntime_answers_alike(name: str, tmp_path: Path) -> None:
    predictor = predictor_of(name, tmp_path)
    expected = list(answers(predictor))
    predictor.model = ENGINES["onnxruntime"].model_of(situation_of(predictor, tmp_path))
    same(list(answers(predictor)), expected)
    assert list(tmp_path.glob("*.onnx"))


@pytest.mark.parametrize("kind", ["MatMul", "Conv"])
def test_eight_bits_need_a_product_with_a_matrix_of_weights(kind: str, tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    shape, weights = ((2, 8), (8, 4)) if kind == "MatMul" else ((1, 3, 8, 8), (4, 3, 3, 3))
    graph = helper.make_graph(
        [helper.make_node(kind, ["x", "w"], ["y"])],
        "toy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ones(weights, np.float32), "w")],
    )
    opset = helper.make_opsetid("", 20)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), tmp_path / "g.onnx")
    expected = (
        nullcontext()
        if kind == "MatMul"
        else pytest.raises(NoProductsError, match="use onnxruntime")
    )
    with expected:
        quantize(tmp_path / "g.onnx", tmp_path / "g.int8.onnx")
    files = {"g.onnx", "g.int8.onnx"} if kind == "MatMul" else {"g.onnx"}
    assert {each.name for each in tmp_path.iterdir()} == files
