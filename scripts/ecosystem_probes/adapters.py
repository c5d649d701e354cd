"""Probes of adapters, quantization and pruning."""

import torch

from ecosystem_probes.common import ROWS, Form, X, close, mlp, tool


@tool("peft (LoRA)", "peft")
def peft(form: Form) -> None:
    from peft import LoraConfig, get_peft_model

    net = form(mlp)
    adapted = get_peft_model(net, LoraConfig(r=2, target_modules=["0", "2"]))
    names = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert len(names) == 4, f"{len(names)} of 4 factors are trained"
    for name, factor in adapted.named_parameters():
        if "lora" in name:
            torch.nn.init.normal_(factor)
    want = adapted(ROWS)
    close(adapted.merge_and_unload()(ROWS), want, atol=1e-4, rtol=1e-4)


@tool("torchao (quantize_)", "torchao")
def torchao(form: Form) -> None:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    net = form(mlp)
    want = net(ROWS)
    quantize_(net, Int8WeightOnlyConfig())
    assert type(net[0].weight) is not torch.nn.Parameter, "the layers are not quantized"
    close(net(ROWS), want, atol=0.05, rtol=0.05)


@tool("Optimum Quanto", "optimum-quanto")
def quanto(form: Form) -> None:
    from optimum.quanto import freeze, qint8, quantize

    net = form(mlp)
    want = net(ROWS)
    quantize(net, weights=qint8)
    freeze(net)
    assert type(net[0]).__name__ == "QLinear", "the layers are not quantized"
    close(net(ROWS), want, atol=0.05, rtol=0.05)


@tool("bitsandbytes (Linear8bitLt)", "bitsandbytes")
def bitsandbytes(form: Form) -> None:
    import bitsandbytes as bnb

    net = form(mlp)
    want = net(ROWS)
    layer = bnb.nn.Linear4bit(3, 64, compute_dtype=torch.float32)
    layer.load_state_dict(net[0].state_dict())
    net[0] = layer
    net.to("cpu")
    close(net(ROWS), want, atol=0.3, rtol=0.3)
    assert isinstance(next(iter(net.children())), bnb.nn.Linear4bit)


@tool("HQQ", "hqq")
def hqq(form: Form) -> None:
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear

    net = form(mlp)
    want = net(ROWS)
    config = BaseQuantizeConfig(nbits=8, group_size=64, axis=1)
    net[2] = HQQLinear(net[2], config, compute_dtype=torch.float32, device="cpu")
    close(net(ROWS), want, atol=0.05, rtol=0.05)


@tool("Torch-Pruning", "torch-pruning")
def torch_pruning(form: Form) -> None:
    import torch_pruning

    net = form()
    graph = torch_pruning.DependencyGraph().build_dependency(net, example_inputs=X)
    group = graph.get_pruning_group(net.fc, torch_pruning.prune_linear_out_channels, idxs=[0, 1])
    group.prune()
    assert net.head[0].weight.shape == (8, 6), "the next layer was not pruned"
    assert net(X).shape == (2, 5)


@tool("NNCF (compress_weights)", "nncf")
def nncf(form: Form) -> None:
    import nncf

    net = form()
    want = net(X)
    compressed = nncf.compress_weights(net, dataset=nncf.Dataset([X]))
    weights = [m.weight for m in compressed.modules() if type(m).__name__ == "Linear"]
    assert weights and all(not w.is_floating_point() for w in weights), "no weight is compressed"
    close(compressed(X), want, atol=0.05, rtol=0.05)
