"""FourCastNet's, physicsnemo's and AFNO-transformer's checkpoints, as their files look."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from cupola.errors import BuildError, CheckpointError
from cupola.models.afno import AFNOClassifier, AFNONet, NeuralOperatorFNO, PrecipNet
from cupola.weights import DIALECTS, load_weights, read_checkpoint

GOLDENS = Path(__file__).parents[2] / "goldens"
SMALL = {
    "img_size": (8, 16),
    "patch_size": 4,
    "in_chans": 3,
    "out_chans": 2,
    "embed_dim": 16,
    "depth": 1,
    "num_blocks": 4,
}


def equal(state: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return state.keys() == other.keys() and all(torch.equal(state[k], other[k]) for k in state)


@pytest.mark.parametrize("kind", ["backbone", "precip"])
def test_fourcastnet_file(tmp_path: Path, kind: str) -> None:
    def make() -> AFNONet | PrecipNet:
        return AFNONet(**SMALL) if kind == "backbone" else PrecipNet(AFNONet(**SMALL))

    model, trained = make(), make()
    state = {f"module.{key}": value for key, value in trained.state_dict().items()}
    state["module.ged"] = torch.zeros(1)
    content = {"iters": 3, "epoch": 1, "model_state": state, "optimizer_state_dict": {"state": {}}}
    torch.save(content, tmp_path / "backbone.ckpt")
    report = load_weights(model, tmp_path / "backbone.ckpt")
    assert report.dialect == "fourcastnet"
    assert equal(dict(model.state_dict()), dict(trained.state_dict()))


def test_unused_norm_may_be_absent_on_either_side() -> None:
    with_norm, without = AFNONet(**SMALL), AFNONet(**SMALL, final_norm=False)
    theirs = {**without.state_dict(), "device_buffer": torch.empty(0)}
    assert load_weights(with_norm, theirs).dialect == "physicsnemo"
    prefixed = {f"module.{key}": value for key, value in with_norm.state_dict().items()}
    assert load_weights(without, prefixed).dialect == "fourcastnet"
    assert equal(
        dict(without.state_dict()), DIALECTS["physicsnemo"].to_theirs(with_norm.state_dict())
    )


def test_keys_that_are_a_part_of_ours_are_a_dialect_where_it_fills_more() -> None:
    """physicsnemo 2 has no device_buffer: its keys are ours but for the unused norm."""
    model, trained = AFNONet(**SMALL), AFNONet(**SMALL)
    theirs = {k: v for k, v in trained.state_dict().items() if not k.startswith("norm.")}
    assert load_weights(model, theirs).dialect == "physicsnemo"
    assert torch.equal(model.head.weight, trained.head.weight)
    with pytest.raises(CheckpointError, match=r"missing: pos_embed"):
        load_weights(model, {k: v for k, v in theirs.items() if k != "pos_embed"})


@pytest.mark.parametrize("archive", ["zip", "tar"])
def test_physicsnemo_package(tmp_path: Path, archive: str) -> None:
    trained, model = AFNONet(**SMALL, final_norm=False), AFNONet(**SMALL, final_norm=False)
    buffer = io.BytesIO()
    torch.save({**trained.state_dict(), "device_buffer": torch.empty(0)}, buffer)
    path = tmp_path / "AFNO.0.100.mdlus"
    if archive == "zip":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("model.pt", buffer.getvalue())
            file.writestr("args.json", "{}")
    else:
        with tarfile.open(path, "w") as file:
            member = tarfile.TarInfo("./model.pt")
            member.size = len(buffer.getvalue())
            file.addfile(member, io.BytesIO(buffer.getvalue()))
    assert load_weights(model, path).dialect == "physicsnemo"
    assert equal(dict(model.state_dict()), dict(trained.state_dict()))


def test_a_package_without_a_state_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "broken.mdlus"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("args.json", "{}")
    with pytest.raises(CheckpointError, match=r"broken\.mdlus: not a physicsnemo package"):
        read_checkpoint(path)


def test_classifier() -> None:
    trained, model = AFNOClassifier(3, **SMALL), AFNOClassifier(3, **SMALL)
    state = {f"module.{key}": value for key, value in trained.state_dict().items()}
    assert load_weights(model, state).dialect == "afno-transformer"
    assert equal(dict(model.state_dict()), dict(trained.state_dict()))


@pytest.mark.parametrize("name", ["fourcastnet", "physicsnemo"])
def test_there_and_back(name: str) -> None:
    model = AFNONet(**SMALL)
    own = dict(model.state_dict())
    dialect = DIALECTS[name]
    assert dialect.to_theirs is not None
    assert equal(dialect.to_ours(dialect.to_theirs(own), own), own)


def test_neuraloperator_checkpoint_equals_its_original() -> None:
    """The state of a small FNO of neuraloperator 2.0.0: modes (6, 8), 8 channels, 2 layers."""
    golden = load_file(GOLDENS / "fno_neuraloperator.safetensors")
    state = {k.removeprefix("state."): v for k, v in golden.items() if k.startswith("state.")}
    for key, value in golden.items():
        if key.startswith("complex."):
            state[key.removeprefix("complex.")] = torch.view_as_complex(value)
    model = NeuralOperatorFNO((6, 8), 2, 3, 8, n_layers=2)
    assert load_weights(model, state).dialect == "neuraloperator"
    with torch.no_grad():
        torch.testing.assert_close(model(golden["x"]), golden["y"], atol=1e-6, rtol=1e-5)
    back = DIALECTS["neuraloperator"].to_theirs(dict(model.state_dict()))
    assert equal(back, state)
    with pytest.raises(BuildError, match="an odd number of rows"):
        NeuralOperatorFNO((5, 8), 2, 3, 8)
    with pytest.raises(BuildError, match="expected 'grid' or None"):
        NeuralOperatorFNO((6, 8), 2, 3, 8, positional_embedding="sine")
