"""Probes of explanations, of layers from elsewhere and of wrappers."""

from typing import Any

import torch

from ecosystem_probes.common import CLASSES, ROWS, Form, X, close, mlp, tool


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
