"""Probes of libraries that train a model."""

import tempfile
from pathlib import Path
from typing import Any

import torch

from ecosystem_probes.common import CLASSES, ROWS, Form, close, mlp, quiet, tool


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
