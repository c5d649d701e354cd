"""Probes of libraries that look at, wrap, train, convert or serve modules of torch."""

import tempfile
from pathlib import Path
from typing import Any

import torch

from ecosystem_probes.common import Form, X, close, mlp, quiet, tool

ROWS = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
CLASSES = torch.arange(8) % 5


# Summaries and counters ---------------------------------------------------------------------------


@tool("torchinfo", "torchinfo")
def torchinfo(form: Form) -> None:
    from torchinfo import summary

    net = form()
    found = summary(net, input_data=X, verbose=0)
    assert found.total_params == sum(p.numel() for p in net.parameters())
    assert sum(info.class_name == "Linear" for info in found.summary_list) == 3, "layers missing"


@tool("torchsummary", "torchsummary")
def torchsummary(form: Form) -> None:
    import contextlib
    import io

    from torchsummary import summary

    with contextlib.redirect_stdout(io.StringIO()) as text:
        summary(form(), (3, 8, 8), device="cpu")
    assert text.getvalue().count("Linear-") == 3, "layers missing"


@tool("torchview", "torchview")
def torchview(form: Form) -> None:
    from torchview import draw_graph

    graph = draw_graph(form(), input_data=X, expand_nested=True)
    assert str(graph.visual_graph).count("Linear") == 3, "layers missing"


@tool("torchviz", "torchviz")
def torchviz(form: Form) -> None:
    from torchviz import make_dot

    net = form()
    assert "fc.weight" in str(make_dot(net(X), params=dict(net.named_parameters())))


@tool("fvcore (FlopCountAnalysis)", "fvcore")
def fvcore(form: Form) -> None:
    from fvcore.nn import FlopCountAnalysis

    counts = FlopCountAnalysis(form(), X).by_module()
    assert counts["fc"] == 2 * 4 * 8, f"fc has {counts['fc']} operations, not 64"


@tool("ptflops", "ptflops")
def ptflops(form: Form) -> None:
    from ptflops import get_model_complexity_info

    macs, parameters = get_model_complexity_info(
        form(), (3, 8, 8), as_strings=False, print_per_layer_stat=False, backend="pytorch"
    )
    assert parameters == sum(p.numel() for p in form().parameters())
    assert macs and macs > 7000, f"{macs} multiplications; the convolution alone has 6912"


@tool("thop", "thop")
def thop(form: Form) -> None:
    from thop import profile

    macs, _ = profile(form(), inputs=(X,), verbose=False)
    assert macs > 13824, f"{macs} multiplications; the convolution alone has 13824"


@tool("calflops", "calflops")
def calflops(form: Form) -> None:
    from calflops import calculate_flops

    net = form()
    _, macs, _ = calculate_flops(
        net, args=[X], output_as_string=False, print_results=False, print_detailed=False
    )
    assert macs > 7000, f"{macs} multiplications"


# Training loops -----------------------------------------------------------------------------------


@tool("Lightning (LightningModule)", "lightning")
def lightning(form: Form) -> None:
    import lightning

    class Model(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = form(mlp)

        def training_step(self, batch: Any) -> Any:
            return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1)

    model = Model()
    assert "net.0.weight" in model.state_dict(), "the module has no parameters"
    before = model.net[0].weight.detach().clone()
    with tempfile.TemporaryDirectory() as folder:
        trainer = lightning.Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=False,
            default_root_dir=folder,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        data = torch.utils.data.TensorDataset(ROWS, CLASSES)
        trainer.fit(model, torch.utils.data.DataLoader(data, batch_size=4))
        (path,) = Path(folder).rglob("*.ckpt")
        state = torch.load(path, weights_only=False)["state_dict"]
    assert set(state) == set(model.state_dict()), "the checkpoint lacks parameters"
    assert not torch.equal(model.net[0].weight, before), "nothing was trained"


@tool("Lightning Fabric", "lightning")
def fabric(form: Form) -> None:
    from lightning.fabric import Fabric

    net = form(mlp)
    fabric = Fabric(accelerator="cpu", devices=1)
    model, optimizer = fabric.setup(net, torch.optim.SGD(net.parameters(), 0.1))
    before = net[0].weight.detach().clone()
    fabric.backward(model(ROWS).square().sum())
    optimizer.step()
    assert not torch.equal(net[0].weight, before), "nothing was trained"
    assert "0.weight" in model.state_dict(), "the wrapper has no parameters"


@tool("accelerate (prepare, save_state)", "accelerate")
def accelerate(form: Form) -> None:
    from accelerate import Accelerator

    net = form(mlp)
    accelerator = Accelerator(cpu=True)
    model, optimizer = accelerator.prepare(net, torch.optim.SGD(net.parameters(), 0.1))
    accelerator.backward(model(ROWS).square().sum())
    optimizer.step()
    with tempfile.TemporaryDirectory() as folder:
        accelerator.save_state(folder)
        saved = [path.name for path in Path(folder).iterdir()]
    assert any(name.startswith("model") for name in saved), f"no model among {saved}"


@tool("accelerate (init_empty_weights)", "accelerate")
def empty_weights(form: Form) -> None:
    from accelerate import init_empty_weights

    with init_empty_weights():
        net = form()
    assert all(p.is_meta for p in net.parameters()), "parameters have values"


@tool("transformers (Trainer)", "transformers")
def trainer(form: Form) -> None:
    from transformers import Trainer, TrainingArguments

    class Model(form.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, nn: Any) -> None:
            super().__init__()
            self.net = mlp(nn)

        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> Any:
            logits = self.net(x)
            return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}

    model = form(Model).train()
    before = model.net[0].weight.detach().clone()
    data = [{"x": x, "labels": y} for x, y in zip(ROWS, CLASSES, strict=True)]
    with tempfile.TemporaryDirectory() as folder, quiet():
        arguments = TrainingArguments(
            folder, max_steps=2, use_cpu=True, report_to=[], disable_tqdm=True
        )
        trainer = Trainer(model, arguments, train_dataset=data)
        trainer.train()
        trainer.save_model(folder)
        assert (Path(folder) / "model.safetensors").is_file()
    assert not torch.equal(model.net[0].weight, before), "nothing was trained"


@tool("skorch", "skorch")
def skorch(form: Form) -> None:
    from skorch import NeuralNetClassifier

    net = form(mlp)
    classifier = NeuralNetClassifier(
        net, criterion=torch.nn.CrossEntropyLoss, max_epochs=1, train_split=None, verbose=0
    )
    before = net[0].weight.detach().clone()
    classifier.fit(ROWS.numpy(), CLASSES.numpy())
    assert not torch.equal(classifier.module_[0].weight, before), "nothing was trained"
    assert classifier.predict(ROWS.numpy()).shape == (8,)


@tool("PyTorch-Ignite", "pytorch-ignite")
def ignite(form: Form) -> None:
    from ignite.engine import create_supervised_trainer
    from ignite.handlers import EMAHandler

    net = form(mlp)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    trainer = create_supervised_trainer(net, optimizer, torch.nn.functional.cross_entropy)
    average = EMAHandler(net, momentum=0.5)
    average.attach(trainer)
    before = net[0].weight.detach().clone()
    trainer.run([(ROWS, CLASSES)], max_epochs=1)
    assert not torch.equal(net[0].weight, before), "nothing was trained"
    close(average.ema_model[0].weight, (before + net[0].weight) / 2)


@tool("ema-pytorch", "ema-pytorch")
def ema_pytorch(form: Form) -> None:
    from ema_pytorch import EMA

    net = form(mlp)
    average = EMA(net, beta=0.5, update_after_step=0, update_every=1)
    average.update()
    torch.nn.init.zeros_(net[0].weight)
    average.update()
    average.update()
    assert sum(key.endswith("0.weight") for key in average.state_dict()), "no averages are saved"
    assert average.ema_model[0].weight.any(), "the average is not one"


@tool("timm (ModelEmaV3, parameter groups)", "timm")
def timm(form: Form) -> None:
    from timm.optim import create_optimizer_v2
    from timm.utils import ModelEmaV3

    net = form()
    optimizer = create_optimizer_v2(net, opt="adamw", lr=0.1, weight_decay=0.1)
    decays = {group["weight_decay"] for group in optimizer.param_groups}
    assert decays == {0.0, 0.1}, f"groups with weight decay {decays}"
    average = ModelEmaV3(net, decay=0.5)
    torch.nn.init.zeros_(net.fc.weight)
    average.update(net)
    assert "module.fc.weight" in average.state_dict(), "the average has no parameters"


@tool("Opacus (PrivacyEngine)", "opacus")
def opacus(form: Form) -> None:
    from opacus import PrivacyEngine

    net = form(mlp).train()
    data = torch.utils.data.TensorDataset(ROWS, CLASSES)
    loader = torch.utils.data.DataLoader(data, batch_size=4)
    private, optimizer, loader = PrivacyEngine().make_private(
        module=net,
        optimizer=torch.optim.SGD(net.parameters(), 0.1),
        data_loader=loader,
        noise_multiplier=1.0,
        max_grad_norm=1.0,
    )
    torch.nn.functional.cross_entropy(private(ROWS), CLASSES).backward()
    assert net[0].weight.grad_sample.shape == (8, 64, 3), "no gradients by sample"
    optimizer.step()


@tool("BackPACK", "backpack-for-pytorch")
def backpack(form: Form) -> None:
    from backpack import backpack, extend
    from backpack.extensions import BatchGrad

    net, loss = extend(form(mlp)), extend(torch.nn.CrossEntropyLoss())
    with backpack(BatchGrad()):
        loss(net(ROWS), CLASSES).backward()
    assert net[0].weight.grad_batch.shape == (8, 64, 3), "no gradients by sample"


# Adapters, quantization, pruning ------------------------------------------------------------------


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


# Explanations -------------------------------------------------------------------------------------


@tool("Captum", "captum")
def captum(form: Form) -> None:
    from captum.attr import IntegratedGradients, LayerGradCam

    net = form()
    assert IntegratedGradients(net).attribute(X, target=0, n_steps=4).shape == X.shape
    assert LayerGradCam(net, net.conv).attribute(X, target=0).shape == (2, 1, 8, 8)


@tool("pytorch-grad-cam", "grad-cam")
def grad_cam(form: Form) -> None:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    net = form()
    with GradCAM(model=net, target_layers=[net.conv]) as cam:
        maps = cam(input_tensor=X, targets=[ClassifierOutputTarget(0)] * 2)
    assert maps.shape == (2, 8, 8)


@tool("Laplace", "laplace-torch")
def laplace(form: Form) -> None:
    from laplace import Laplace

    net = form(mlp)
    posterior = Laplace(net, "classification", "last_layer", "full")
    data = torch.utils.data.TensorDataset(ROWS, CLASSES)
    posterior.fit(torch.utils.data.DataLoader(data, batch_size=4))
    assert posterior(ROWS).shape == (8, 5)


# Layers and wrappers ------------------------------------------------------------------------------


@tool("einops (layers)", "einops")
def einops(form: Form) -> None:
    from einops.layers.torch import Rearrange

    net = form(lambda nn: nn.Sequential(Rearrange("b c h w -> b (c h w)"), nn.Linear(192, 5)))
    assert net(X).shape == (2, 5)


@tool("TorchMetrics (feature extractor)", "torchmetrics")
def torchmetrics(form: Form) -> None:
    from torchmetrics import Metric

    class Mean(Metric):
        def __init__(self, extractor: Any) -> None:
            super().__init__()
            self.extractor = extractor
            self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")

        def update(self, x: torch.Tensor) -> None:
            self.total += self.extractor(x).mean()

        def compute(self) -> torch.Tensor:
            return self.total

    metric = Mean(form())
    metric.update(X)
    metric.double()
    assert metric.compute().isfinite()
    assert len(list(metric.parameters())) == 10, "the metric has no parameters"


@tool("TensorDict (TensorDictModule, from_module)", "tensordict")
def tensordict(form: Form) -> None:
    from tensordict import TensorDict
    from tensordict.nn import TensorDictModule

    net = form(mlp)
    wrapped = TensorDictModule(net, in_keys=["x"], out_keys=["y"])
    assert len(list(wrapped.parameters())) == 4, "the wrapper has no parameters"
    close(wrapped(TensorDict(x=ROWS, batch_size=[8]))["y"], net(ROWS))
    zeros = TensorDict.from_module(net).detach().clone().zero_()
    with zeros.to_module(net):
        assert not net(ROWS).any(), "the call used the module's own weights"


@tool("torchdiffeq (odeint_adjoint)", "torchdiffeq")
def torchdiffeq(form: Form) -> None:
    from torchdiffeq import odeint_adjoint

    def build(nn: Any) -> Any:
        class Field(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layer = nn.Linear(3, 3)

            def forward(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
                return self.layer(y)

        return Field()

    field = form(build)
    odeint_adjoint(field, ROWS, torch.tensor([0.0, 1.0])).sum().backward()
    assert field.layer.weight.grad is not None, "no gradients"


# Files and services -------------------------------------------------------------------------------


@tool("safetensors (save_model, load_model)", "safetensors")
def safetensors(form: Form) -> None:
    from safetensors.torch import load_model, save_model

    net = form()
    want = net(X)
    with tempfile.TemporaryDirectory() as folder:
        save_model(net, f"{folder}/model.safetensors")
        other = form()
        torch.nn.init.zeros_(other.fc.weight)
        load_model(other, f"{folder}/model.safetensors")
    close(other(X), want)


@tool("OpenVINO (convert_model)", "openvino")
def openvino(form: Form) -> None:
    import openvino

    net = form()
    compiled = openvino.compile_model(openvino.convert_model(net, example_input=X), "CPU")
    close(torch.tensor(compiled(X.numpy())[0]), net(X), atol=1e-3, rtol=1e-3)


@tool("MLflow (pytorch.save_model)", "mlflow-skinny")
def mlflow(form: Form) -> None:
    import mlflow.pytorch

    net = form(mlp)
    with tempfile.TemporaryDirectory() as folder:
        mlflow.pytorch.save_model(
            net,
            f"{folder}/model",
            pip_requirements=["torch"],
            serialization_format="pickle",
        )
        loaded = mlflow.pytorch.load_model(f"{folder}/model")
    close(loaded(ROWS), net(ROWS))


@tool("Weights & Biases (watch, offline)", "wandb")
def wandb(form: Form) -> None:
    import wandb

    net = form(mlp)
    with tempfile.TemporaryDirectory() as folder, quiet():
        run = wandb.init(mode="offline", dir=folder, settings=wandb.Settings(silent=True))
        wandb.watch(net, log="all", log_freq=1)
        net(ROWS).sum().backward()
        hooks = len(run._torch._hook_handles)
        run.finish()
    assert hooks >= 4, f"{hooks} hooks for 4 parameters"
