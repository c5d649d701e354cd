"""CUDA graphs: the network recorded once for a size and replayed, in float32 or mostly in float16.

Launching the kernels of a detector one by one can take longer than running them. A graph launches
all at once, but it has fixed sizes: that of the example is recorded when the model is loaded,
another one when it comes for the third time.
"""

import copy
from collections import Counter, OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from cupola import nn
from cupola.parallel import record
from cupola.runtime.optimize import structure
from cupola.runtime.optimize.engines import Engine, Situation
from cupola.runtime.optimize.network import (
    Call,
    EngineUnavailableError,
    Network,
    Signature,
    with_shared_weights,
)
from cupola.runtime.optimize.tracing import short

Run = Callable[..., Any]
RECORDED_SIZES = 8  # kept, those used last
SEEN = 3  # times that a size has to come before it is recorded
MOST_SEEN = 1000  # sizes that are counted
HALF = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)


class CudaGraph(Engine):
    """The network as a CUDA graph, in the type of its weights."""

    name = "cuda-graph"

    def missing(self, device: torch.device) -> str | None:
        return None if device.type == "cuda" else f"for CUDA, and the model is on {device}"

    def model_of(self, situation: Situation) -> Any:
        model = self.prepared(situation)
        network = Network(model)
        replacement = Recordings(self.run_of(network.original), network)
        with torch.inference_mode():
            replacement.record(situation.call())
        network.replace(replacement)
        return model

    def prepared(self, situation: Situation) -> Any:
        """The model whose network is recorded."""
        return with_shared_weights(situation.folded)

    def run_of(self, original: Run) -> Run:
        """The function that is recorded."""
        return original


class Half(CudaGraph):
    """The same with convolutions and matrix products in float16; norms and sums stay in float32."""

    name = "half"
    exact = False

    def prepared(self, situation: Situation) -> Any:
        model = copy.deepcopy(situation.folded)
        for module in called_layers(model, situation.call()):
            for name, parameter in list(module.named_parameters(recurse=False)):
                smaller = parameter.detach().half()
                if smaller.ndim == 4:
                    smaller = smaller.to(memory_format=torch.channels_last)
                setattr(module, name, nn.Parameter(smaller, requires_grad=False))
        return model

    def run_of(self, original: Run) -> Run:
        def run(*args: Any, **kwargs: Any) -> Any:
            args, kwargs = pytree.tree_map_only(Tensor, channels_last, (args, kwargs))
            with torch.autocast("cuda", torch.float16, cache_enabled=False):
                answer = original(*args, **kwargs)
            return pytree.tree_map_only(Tensor, widened, answer)

        return run


@torch.inference_mode()
def called_layers(model: Any, call: Call) -> list[Any]:
    """The layers of the kinds in HALF that the network calls; others are used beside it."""
    found: dict[int, Any] = {}
    layers = [module for module in model.modules() if isinstance(module, HALF)]
    hooks = [
        layer.register_forward_pre_hook(
            lambda layer, _: found.setdefault(id(layer), layer) and None
        )
        for layer in layers
    ]
    try:
        Network(model).original(*call.args)
    finally:
        for hook in hooks:
            hook.remove()
    return list(found.values())


def channels_last(x: Tensor) -> Tensor:
    """Images [B, C, H, W] laid out as convolutions in float16 read them."""
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def widened(x: Tensor) -> Tensor:
    """The same in float32, if it is in float16."""
    return x.float() if x.dtype == torch.float16 else x


class Recordings:
    """What replaces the method of a network: recordings of the sizes that come often."""

    def __init__(self, run: Run, network: Network) -> None:
        """`run` computes what the method does, with positional arguments."""
        self.run, self.network = run, network
        self._seen: Counter[Signature] = Counter()
        self._recorded: OrderedDict[Signature, Recording] = OrderedDict()
        self._pool: Any = None  # of the memory between inputs and results, for all sizes

    def record(self, call: Call) -> None:
        """Records a size; EngineUnavailableError if the network waits for numbers from the GPU."""
        try:
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            self._recorded[call.signature] = Recording(self.run, call, self._pool)
        except RuntimeError as error:
            raise EngineUnavailableError(f"cannot be recorded: {short(_first(error))}") from None
        if len(self._recorded) > RECORDED_SIZES:
            dropped, _ = self._recorded.popitem(last=False)
            self._seen.pop(dropped, None)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled() or self.network.model.training:
            return self.run(*args, **kwargs)
        call = self.network.call(args, kwargs)
        if call is None:
            return self.run(*args, **kwargs)
        if call.signature not in self._recorded and not self._is_due(call):
            return self.run(*call.args)
        self._recorded.move_to_end(call.signature)
        return self._recorded[call.signature](call)

    def _is_due(self, call: Call) -> bool:
        """Records a size that has come often enough; whether that was possible."""
        size = call.signature
        self._seen[size] += 1
        if len(self._seen) > MOST_SEEN:
            self._seen.clear()
        if self._seen[size] != SEEN:  # one that has failed is not tried again
            return False
        with suppress(EngineUnavailableError):  # the GPU's memory may be full
            self.record(call)
        return size in self._recorded


def _first(error: BaseException) -> BaseException:
    """The error that made a recording fail, of which the end of the recording is another one."""
    return error if error.__context__ is None else _first(error.__context__)


class Recording:
    """The network for one size: a graph, and the memory that it reads and writes."""

    def __init__(self, run: Run, call: Call, pool: Any) -> None:
        self.inputs = [each.clone() for each in call.tensors]
        given = iter(self.inputs)
        leaves = [next(given) if isinstance(each, Tensor) else each for each in call.leaves]
        args = pytree.tree_unflatten(leaves, call.spec)
        self.graph, answer = record(lambda: run(*args), self.inputs[0].device, pool)
        self.nesting = structure.described(answer)
        self.outputs = structure.tensors_of(answer)

    def __call__(self, call: Call) -> Any:
        """The results, new tensors."""
        for mine, given in zip(self.inputs, call.tensors, strict=True):
            mine.copy_(given)
        self.graph.replay()
        return structure.assembled(self.nesting, iter([each.clone() for each in self.outputs]))
