"""All engines by name, the simplest first."""

from cupola.runtime.optimize.compiled import Compiled
from cupola.runtime.optimize.cuda_graphs import CudaGraph, Half
from cupola.runtime.optimize.engines import Eager, Engine, Folded, Int8
from cupola.runtime.optimize.onnx_engines import OnnxRuntime, OnnxRuntimeInt8, OpenVino

_ALL = (
    Eager(),
    Folded(),
    CudaGraph(),
    Compiled(),
    OnnxRuntime(),
    OpenVino(),
    Half(),
    Int8(),
    OnnxRuntimeInt8(),
)
ENGINES: dict[str, Engine] = {each.name: each for each in _ALL}
