"""Probes of the tools that torch contains."""

import copy
import io
import tempfile
from typing import Any

import torch

from ecosystem_probes.common import Form, X, close, mlp, process_group, quiet, tool, train_step


@tool("torch.compile")
def compile(form: Form) -> None:
    net = form()
    compiled = torch.compile(net, fullgraph=True)
    close(compiled(X), net(X))


@tool("torch.export")
def export(form: Form) -> None:
    net = form()
    program = torch.export.export(net, (X,))
    close(program.module()(X), net(X))
    assert "fc.weight" in program.state_dict


@tool("torch.onnx.export")
def onnx(form: Form) -> None:
    import onnxruntime

    net = form()
    with quiet():
        program = torch.onnx.export(net, (X,), dynamo=True, verbose=False)
    file = io.BytesIO()
    program.save(file)
    session = onnxruntime.InferenceSession(file.getvalue())
    (out,) = session.run(None, {session.get_inputs()[0].name: X.numpy()})
    close(torch.tensor(out), net(X), atol=1e-4, rtol=1e-4)


@tool("torch.fx.symbolic_trace")
def fx(form: Form) -> None:
    net = form()
    traced = torch.fx.symbolic_trace(net)
    close(traced(X), net(X))
    assert "fc" in {node.target for node in traced.graph.nodes if node.op == "call_module"}


@tool("torch.fx fusion of batch norm")
def fx_fuse(form: Form) -> None:
    from torch.fx.experimental.optimization import fuse

    net = form()
    fused = fuse(net)
    close(fused(X), net(X), atol=1e-5, rtol=1e-4)
    assert "bn" not in {node.target for node in fused.graph.nodes}, "the batch norm is still there"


@tool("torch.jit.trace")
def jit_trace(form: Form) -> None:
    net = form()
    traced = torch.jit.trace(net, X)
    close(traced(X), net(X))
    assert "fc" in dict(traced.named_children()), "the traced module has no children"


@tool("torch.jit.script")
def jit_script(form: Form) -> None:
    net = form(mlp)
    scripted = torch.jit.script(net)
    close(scripted(torch.ones(2, 3)), net(torch.ones(2, 3)))
    assert len(list(scripted.parameters())) == 4


@tool("DistributedDataParallel")
def ddp(form: Form) -> None:
    with process_group():
        wrapped = torch.nn.parallel.DistributedDataParallel(form())
        assert "module.fc.weight" in wrapped.state_dict(), "the wrapper has no parameters"
        train_step(wrapped)


@tool("FSDP2 (fully_shard)")
def fsdp2(form: Form) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    with process_group():
        mesh, net = init_device_mesh("cpu", (1,)), form()
        fully_shard(net.head[0], mesh=mesh)
        fully_shard(net.head[2], mesh=mesh)
        fully_shard(net, mesh=mesh)
        assert all(isinstance(p, DTensor) for p in net.parameters()), "parameters are not sharded"
        train_step(net)


@tool("Tensor parallelism (parallelize_module)")
def tensor_parallel(form: Form) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        parallelize_module,
    )

    with process_group():
        net = form()
        before = net(X)
        plan = {"head.0": ColwiseParallel(), "head.2": RowwiseParallel()}
        parallelize_module(net, init_device_mesh("cpu", (1,)), plan)
        assert isinstance(net.head[0].weight, DTensor), "the layer is not sharded"
        close(net(X), before)


@tool("Pipeline parallelism (pipelining)")
def pipelining(form: Form) -> None:
    from torch.distributed.pipelining import SplitPoint, pipeline

    pipe = pipeline(form(), (X,), split_spec={"head": SplitPoint.BEGINNING})
    assert pipe.num_stages == 2


@tool("torch.distributed.checkpoint")
def distributed_checkpoint(form: Form) -> None:
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict

    net = form()
    want = net.fc.weight.detach().clone()
    with tempfile.TemporaryDirectory() as folder:
        dcp.save(get_model_state_dict(net), checkpoint_id=folder)
        torch.nn.init.zeros_(net.fc.weight)
        state = get_model_state_dict(net)
        dcp.load(state, checkpoint_id=folder)
    set_model_state_dict(net, state)
    close(net.fc.weight.detach(), want)


@tool("DataParallel")
def data_parallel(form: Form) -> None:
    net = form()
    wrapped = torch.nn.DataParallel(net)
    assert "module.fc.weight" in wrapped.state_dict(), "the wrapper has no parameters"
    close(wrapped(X), net(X))


@tool("Activation checkpointing (checkpoint_wrapper)")
def activation_checkpoint(form: Form) -> None:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
        CheckpointWrapper,
        apply_activation_checkpointing,
    )

    net = form()
    apply_activation_checkpointing(net, check_fn=lambda m: isinstance(m, form.nn.Linear))
    wrapped = sum(isinstance(module, CheckpointWrapper) for module in net.modules())
    assert wrapped == 3, f"{wrapped} of 3 linear layers are checkpointed"
    train_step(net)


@tool("Mixed precision (autocast)")
def amp(form: Form) -> None:
    net = form()
    with torch.autocast("cpu", torch.bfloat16):
        assert net(X).dtype == torch.bfloat16
        train_step(net)


@tool("torch.func (functional_call, vmap, stack_module_state)")
def functional(form: Form) -> None:
    nets = [form(mlp), form(mlp)]
    torch.nn.init.zeros_(nets[1][2].weight)
    stacked = torch.func.stack_module_state(nets)
    base = copy.deepcopy(nets[0]).to("meta")
    x = torch.ones(2, 3)
    out = torch.vmap(lambda p, b: torch.func.functional_call(base, (p, b), (x,)))(*stacked)
    close(out, torch.stack([net(x) for net in nets]))


@tool("torch.nn.utils.prune")
def prune(form: Form) -> None:
    from torch.nn.utils import prune

    net = form()
    prune.l1_unstructured(net.fc, "weight", amount=0.5)
    net(X)
    assert net.fc.weight.eq(0).float().mean() == 0.5
    prune.remove(net.fc, "weight")
    assert "fc.weight" in net.state_dict()


class Halve(torch.nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight / 2


@tool("torch.nn.utils.parametrize")
def parametrize(form: Form) -> None:
    from torch.nn.utils import parametrize

    net = form()
    weight = net.fc.weight.detach().clone()
    parametrize.register_parametrization(net.fc, "weight", Halve())
    close(net.fc.weight, weight / 2)
    assert "fc.parametrizations.weight.original" in net.state_dict()
    copied = copy.deepcopy(net)
    close(copied(X), net(X))
    parametrize.remove_parametrizations(net.fc, "weight", leave_parametrized=False)
    close(net.fc.weight.detach(), weight)


@tool("weight_norm, spectral_norm")
def norms(form: Form) -> None:
    from torch.nn.utils import parametrizations

    net = form()
    before = net(X)
    parametrizations.weight_norm(net.fc)
    close(net(X), before)
    up = form(lambda nn: nn.ConvTranspose2d(3, 5, 2)).train()
    parametrizations.spectral_norm(up, n_power_iterations=30)
    matrix = up.weight.transpose(0, 1).flatten(1)  # [out, in * h * w]
    norm = torch.linalg.matrix_norm(matrix, 2).item()
    assert abs(norm - 1) < 0.05, f"the norm is {norm:.2f}: another dimension was normalized"


@tool("quantize_dynamic (torch.ao)")
def quantize_dynamic(form: Form) -> None:
    net = form()
    want = net(X)
    quantized = torch.ao.quantization.quantize_dynamic(net, {torch.nn.Linear})
    kind = torch.ao.nn.quantized.dynamic.Linear
    found = sum(isinstance(module, kind) for module in quantized.modules())
    assert found == 3, f"{found} of 3 linear layers are quantized"
    close(quantized(X), want, atol=0.05, rtol=0.05)


@tool("Weight averages (AveragedModel)")
def averaged_model(form: Form) -> None:
    from torch.optim.swa_utils import AveragedModel

    net = form()
    average = AveragedModel(net)
    for _ in range(2):
        with torch.no_grad():
            net.fc.weight.add_(1)
        average.update_parameters(net)
    assert "module.fc.weight" in average.state_dict(), "the average has no parameters"
    close(average.module.fc.weight, net.fc.weight - 0.5)


@tool("FlopCounterMode")
def flop_counter(form: Form) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    net = form()
    with FlopCounterMode(display=False) as counter:
        net(X)
    assert any("fc" in name for name in counter.get_flop_counts()), "no operations by module"


@tool("update_bn, convert_sync_batchnorm")
def batch_norms(form: Form) -> None:
    net = form()
    torch.optim.swa_utils.update_bn([X], net)
    assert net.bn.running_mean.any(), "the batch norm has no statistics"
    net = torch.nn.SyncBatchNorm.convert_sync_batchnorm(net)
    assert isinstance(net.bn, torch.nn.SyncBatchNorm), "the batch norm is not converted"


@tool("torch.profiler")
def profiler(form: Form) -> None:
    from torch.profiler import ProfilerActivity, profile

    net = form()
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiled:
        net(X)
    assert any(event.key == "aten::addmm" for event in profiled.key_averages())


@tool("Hooks on all modules")
def global_hooks(form: Form) -> None:
    from torch.nn.modules.module import register_module_forward_hook

    seen: list[str] = []
    handle = register_module_forward_hook(lambda m, args, out: seen.append(type(m).__name__))
    form()(X)
    handle.remove()
    assert seen.count("Linear") == 3, f"the hook saw {seen}"


@tool("torch.save of a whole module")
def save_module(form: Form) -> None:
    file, net = io.BytesIO(), form(mlp)
    torch.save(net, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    close(loaded(torch.ones(2, 3)), net(torch.ones(2, 3)))


@tool("skip_init", cure="build in `nn.on_meta()`, then `to_empty(device=...)`")
def skip_init(form: Form) -> None:
    layer = torch.nn.utils.skip_init(form.nn.Linear, 3, 2)
    assert layer.weight.shape == (2, 3) and not layer.weight.is_meta


@tool("TensorBoard (add_graph)", "tensorboard")
def tensorboard(form: Form) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with tempfile.TemporaryDirectory() as folder, SummaryWriter(folder) as writer:
        writer.add_graph(form(), X)


@tool("Fused optimizers, parameter groups")
def optimizers(form: Form) -> None:
    net = form()
    groups: list[dict[str, Any]] = [
        {"params": net.conv.parameters(), "lr": 0.0},
        {"params": [*net.fc.parameters(), *net.head.parameters()]},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.1, fused=True)
    conv, fc = net.conv.weight.detach().clone(), net.fc.weight.detach().clone()
    net(X).sum().backward()
    optimizer.step()
    assert torch.equal(net.conv.weight, conv) and not torch.equal(net.fc.weight, fc)
