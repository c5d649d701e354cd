"""Probes of what saves, converts or records a model."""

import tempfile

import torch

from ecosystem_probes.common import ROWS, Form, X, close, mlp, quiet, tool


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
