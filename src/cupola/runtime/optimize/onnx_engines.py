"""onnxruntime and OpenVINO: both execute the ONNX graph that we export, which is kept on disk.

Each process that opens a graph has its own copy of the weights.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cupola.runtime.optimize.building import (
    UnfinishedError,
    earlier_failure,
    remember_failure,
)
from cupola.runtime.optimize.engines import Engine, Situation
from cupola.runtime.optimize.graphs import Graph, with_graph
from cupola.runtime.optimize.machine import digest_of
from cupola.runtime.optimize.network import Call, EngineUnavailableError, Network
from cupola.runtime.optimize.tracing import Axes, short

IMAGE_AXES = {4: {0: "batch", 2: "height", 3: "width"}, 3: {0: "batch", 1: "height", 2: "width"}}


class NoProductsError(EngineUnavailableError):
    """A graph whose matrices of products cannot be in eight bits, as there are none."""


class OnnxEngine(Engine):
    """Abstract: what executes an ONNX graph, which these engines share."""

    cost = 1

    def model_of(self, situation: Situation) -> Any:
        if situation.folder is None:
            raise EngineUnavailableError("no folder to keep the graph in; set CUPOLA_CACHE")
        call = situation.call()
        if any(each.is_complex() for each in call.tensors):
            raise EngineUnavailableError("complex inputs are not part of ONNX")
        reasons: list[EngineUnavailableError] = []
        for axes in _choices(situation, call):
            path = situation.folder / _file(call, axes)
            try:
                return self._tried(situation, path, axes)
            except (UnfinishedError, NoProductsError):
                raise  # a graph of fixed sizes would end the same way, and serve fewer requests
            except EngineUnavailableError as error:
                reasons.append(error)
        raise reasons[-1] if situation.build else reasons[0]

    def _tried(self, situation: Situation, path: Path, axes: Axes) -> Any:
        """The model with its graph, unless building that has failed before."""
        if reason := earlier_failure(path):
            raise EngineUnavailableError(reason)
        try:
            return with_graph(
                situation, "onnx", path, axes, lambda: self.open(path, situation.device)
            )
        except EngineUnavailableError as error:
            remember_failure(path, error)
            raise

    def open(self, path: Path, device: torch.device) -> Graph:
        """Opens a graph."""
        raise NotImplementedError


def _choices(situation: Situation, call: Call) -> list[Axes]:
    """The dynamic axes to try, those of images first; then fixed sizes."""
    model = situation.model
    images = situation.predictor.task == "detection" and Network(model).method == "forward"
    if images and not getattr(model, "fixed_axes", ()):
        return [tuple(IMAGE_AXES.get(each.ndim, {}) for each in call.tensors), ()]
    return [()]


def _file(call: Call, axes: Axes) -> str:
    about = repr(call.kind if axes else call.signature)
    return f"{digest_of(about)[:16]}.onnx"


class OnnxRuntime(OnnxEngine):
    """onnxruntime in float32."""

    name = "onnxruntime"

    def missing(self, device: torch.device) -> str | None:
        if find_spec("onnxruntime") is None or find_spec("onnxscript") is None:
            return "not installed; pip install cupola[export]"
        if device.type == "cpu":
            return None
        import onnxruntime

        if device.type == "cuda" and PROVIDERS["cuda"] in onnxruntime.get_available_providers():
            return None
        return f"this onnxruntime does not compute on {device.type}"

    def open(self, path: Path, device: torch.device) -> Graph:
        return Session(path, device)


class OnnxRuntimeInt8(OnnxRuntime):
    """onnxruntime with matrices in eight bits, and activations rounded at run time."""

    name = "onnxruntime-int8"
    exact = False

    def missing(self, device: torch.device) -> str | None:
        if device.type != "cpu":
            return f"computes on the CPU, and the model is on {device}"
        return super().missing(device)

    def open(self, path: Path, device: torch.device) -> Graph:
        small = path.with_suffix(".int8.onnx")
        if not small.exists():
            quantize(path, small)
        return Session(small, device)


def quantize(path: Path, out: Path) -> None:
    """Writes a graph with the matrices of its products in eight bits; convolutions stay.

    NoProductsError if that would be the graph as it is.
    """
    import logging
    import os

    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    part = out.with_name(f".{out.name}.{os.getpid()}")
    logging.getLogger().disabled, before = True, logging.getLogger().disabled
    try:
        quantize_dynamic(
            path, part, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8
        )
        nodes = onnx.load(part, load_external_data=False).graph.node
        if not any(node.op_type == "MatMulInteger" for node in nodes):
            raise NoProductsError(
                "the network has no products with matrices of weights, and its convolutions stay "
                "in float32; use onnxruntime"
            )
        part.replace(out)
    except NoProductsError:
        raise
    except Exception as error:
        raise EngineUnavailableError(f"cannot be quantized: {short(error)}") from None
    finally:
        logging.getLogger().disabled = before
        part.unlink(missing_ok=True)


def spinning(version: str) -> dict[str, str]:
    """How long onnxruntime's idle threads wait before they sleep, as settings of a session.

    Threads that spin take the cores of other processes: with two servers on two cores, a network
    of many small operations took half as much again of the processor. 50 microseconds bridge the
    gaps between its operations, and between two requests there is no spinning. Versions that may
    not know that setting do not spin, which costs the same network 5 to 15 % on idle cores.
    """
    numbers = [int(part) for part in version.split(".")[:2] if part.isdecimal()]
    if numbers < [1, 32]:
        return {"intra_op.allow_spinning": "0"}
    return {"intra_op.spin_duration_us": "50", "force_spinning_stop": "1"}


PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class Session:
    """A graph in onnxruntime."""

    def __init__(self, path: Path, device: torch.device) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        for name, value in spinning(onnxruntime.__version__).items():
            options.add_session_config_entry(f"session.{name}", value)
        provider: Any = PROVIDERS[device.type]
        if device.type == "cuda":
            provider = (provider, {"device_id": device.index or 0})
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=[provider])
        except Exception as error:  # onnxruntime's errors have no common class
            path.unlink(missing_ok=True)
            raise EngineUnavailableError(f"the graph cannot be opened: {short(error)}") from None
        self.names = [each.name for each in self.session.get_inputs()]

    def __call__(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        device = tensors[0].device
        feed = {name: each.cpu().contiguous().numpy() for name, each in zip(self.names, tensors)}  # noqa: B905
        return [torch.from_numpy(each).to(device) for each in self.session.run(None, feed)]


class OpenVino(OnnxEngine):
    """OpenVINO in float32."""

    name = "openvino"

    def missing(self, device: torch.device) -> str | None:
        if find_spec("openvino") is None or find_spec("onnxscript") is None:
            return "not installed; pip install cupola[openvino]"
        return None if device.type == "cpu" else f"here for the CPU only, not for {device.type}"

    def open(self, path: Path, device: torch.device) -> Graph:
        return OpenVinoModel(path)


class OpenVinoModel:
    """A graph in OpenVINO."""

    def __init__(self, path: Path) -> None:
        import openvino

        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "CACHE_DIR": str(path.parent),
        }
        try:
            self.compiled = openvino.Core().compile_model(str(path), "CPU", settings)
        except Exception as error:
            path.unlink(missing_ok=True)
            raise EngineUnavailableError(f"the graph cannot be opened: {short(error)}") from None

    def __call__(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        given = [each.contiguous().numpy() for each in tensors]
        found = self.compiled(given, share_inputs=True, share_outputs=False)
        return [torch.from_numpy(np.asarray(found[i])) for i in range(len(self.compiled.outputs))]
