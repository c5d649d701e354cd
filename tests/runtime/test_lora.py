"""LoRA with PEFT on bridged language models: train, save, load, merge, serve."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

from cupola import Predictor, nn
from cupola.bundles import Bundle
from cupola.cli.main import app
from cupola.errors import CupolaError
from cupola.models.bloom import BloomForCausalLM
from cupola.models.llama import LlamaForCausalLM
from cupola.parallel import ColumnParallelLinear, Group, RowParallelLinear
from cupola.runtime.building import build
from cupola.weights import rename_adapter
from language_toys import hf_language_folder
from lazy import LazyModule

# PEFT asks transformers' models for an attribute that these have renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
peft, transformers = LazyModule("peft"), LazyModule("transformers")
IDS = torch.randint(4, 300, (2, 9), generator=torch.Generator().manual_seed(0))
TARGETS = {
    "bloom": ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"],
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}
FAMILIES = sorted(TARGETS)


def llama_folder(folder: Path) -> Path:
    """A tiny LLaMA as transformers saves it, with grouped queries and the toy tokenizer."""
    hf_language_folder(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base model of each family."""
    root = tmp_path_factory.mktemp("bases")
    return {
        "bloom": hf_language_folder(root / "bloom"),
        "llama": llama_folder(root / "llama"),
    }


def bridged(folder: Path) -> Any:
    bundle = Bundle.load(folder)
    model = build(bundle.model_config, weights=bundle.weights_path).eval()
    model.name_or_path = str(folder)  # what PEFT saves as the base of an adapter
    return nn.to_torch(model)


@torch.no_grad()
def logits(model: Any) -> Tensor:
    found = model.eval()(IDS)
    return found if isinstance(found, Tensor) else found.logits


def train(adapted: Any, steps: int = 3) -> list[float]:
    """The losses of a few steps on the same tokens."""
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], 0.02)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = adapted.loss({"input_ids": IDS, "labels": IDS})["loss"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.fixture(scope="module", params=FAMILIES)
def trained(
    request: pytest.FixtureRequest,
    folders: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Path, Path, Tensor]]:
    """A base, an adapter that was trained on it, and the logits of both together."""
    base = folders[request.param]
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=TARGETS[request.param])
    torch.manual_seed(1)
    adapted = peft.get_peft_model(bridged(base), config)
    before = {
        k: v.clone() for k, v in adapted.base_model.model.state_dict().items() if "lora" not in k
    }
    losses = train(adapted)
    assert losses[-1] < losses[0]
    for key, value in adapted.base_model.model.state_dict().items():
        assert "lora" in key or torch.equal(value, before[key]), key
    folder = tmp_path_factory.mktemp("adapter")
    adapted.save_pretrained(folder, save_embedding_layers=False)
    yield base, folder, logits(adapted)


def test_every_linear_layer_is_adapted(trained: tuple[Path, Path, Tensor]) -> None:
    base, folder, _ = trained
    state = load_file(folder / "adapter_model.safetensors")
    linears = [m for m in bridged(base).modules() if isinstance(m, torch.nn.Linear)]
    assert len(state) == 2 * len(linears)
    assert all(value.any() for value in state.values())


def test_a_saved_adapter_loads_and_merges(trained: tuple[Path, Path, Tensor]) -> None:
    base, folder, want = trained
    assert not torch.allclose(logits(bridged(base)), want, atol=0.01)
    adapted = peft.PeftModel.from_pretrained(bridged(base), folder)
    assert torch.equal(logits(adapted), want)
    merged = nn.from_torch(adapted.merge_and_unload())
    torch.testing.assert_close(logits(merged), want, atol=1e-4, rtol=1e-4)
    assert type(merged) in (BloomForCausalLM, LlamaForCausalLM)
    kinds = {type(module) for module in merged.modules()}
    assert {ColumnParallelLinear, RowParallelLinear} <= kinds
    assert not any(issubclass(kind, torch.nn.Module) for kind in kinds)
    fresh = nn.from_torch(bridged(base))
    fresh.load_state_dict(merged.state_dict())
    assert torch.equal(logits(fresh), logits(merged))


def test_the_folder_of_an_adapter_is_a_model(trained: tuple[Path, Path, Tensor]) -> None:
    _, folder, want = trained
    predictor = Predictor.load(folder)
    torch.testing.assert_close(logits(predictor.model), want, atol=1e-4, rtol=1e-4)
    made = folder.parent / f"{folder.name}-merged"
    done = CliRunner().invoke(app, ["bundle", str(folder), str(made)])
    assert done.exit_code == 0, done.output
    text = predictor("It is", max_tokens=12).text
    assert Predictor.load(made)("It is", max_tokens=12).text == text


def test_generation_uses_the_adapter(trained: tuple[Path, Path, Tensor]) -> None:
    base, folder, _ = trained
    adapted = peft.PeftModel.from_pretrained(bridged(base), folder).eval()
    tokens = adapted.generate(IDS, max_tokens=6)
    assert torch.equal(adapted.merge_and_unload().generate(IDS, max_tokens=6), tokens)


def theirs(base: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()


def test_peft_on_the_model_of_transformers_gives_the_same(
    trained: tuple[Path, Path, Tensor], tmp_path: Path
) -> None:
    base, folder, want = trained
    renamed = rename_adapter(folder, tmp_path / "renamed")
    adapted = peft.PeftModel.from_pretrained(theirs(base), renamed)
    torch.testing.assert_close(logits(adapted), want, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits(Predictor.load(renamed).model), want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_of_the_model_of_transformers(
    family: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    chosen = TARGETS[family][0]
    config = peft.LoraConfig(
        r=4,
        target_modules=rf".*\.1\..*\.{chosen}",
        rank_pattern={chosen: 2},
        alpha_pattern={chosen: 3},
        modules_to_save=["ln_f" if family == "bloom" else "norm"],
    )
    adapted = peft.get_peft_model(theirs(folders[family]), config)
    torch.manual_seed(2)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(tmp_path / "theirs", save_embedding_layers=False)
    want = logits(adapted)
    torch.testing.assert_close(
        logits(Predictor.load(tmp_path / "theirs").model), want, atol=1e-4, rtol=1e-4
    )
    ours = rename_adapter(tmp_path / "theirs", tmp_path / "ours", to="cupola")
    loaded = peft.PeftModel.from_pretrained(bridged(folders[family]), ours)
    torch.testing.assert_close(logits(loaded), want, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits(Predictor.load(ours).model), want, atol=1e-4, rtol=1e-4)
    with pytest.raises(CupolaError, match=r"'transformer' is not one of .* did you mean"):
        rename_adapter(ours, tmp_path / "x", to="transformer")


def test_only_layers_that_hold_the_whole_matrix_count_as_linear() -> None:
    for kind in (ColumnParallelLinear, RowParallelLinear):
        assert isinstance(nn.to_torch(kind(4, 6)), torch.nn.Linear)
        half = nn.to_torch(kind(4, 6, group=Group("tensor", (0, 1))))
        assert isinstance(half, torch.nn.Module) and not isinstance(half, torch.nn.Linear)
        with pytest.raises(ValueError, match=r"Target module .* is not supported"):
            peft.get_peft_model(torch.nn.Sequential(half), peft.LoraConfig(target_modules=["0"]))
        assert not isinstance(nn.to_torch(kind(4, 6, skip_bias_add=True)), torch.nn.Linear)


def test_an_adapter_of_a_shipped_bundle(tmp_path: Path) -> None:
    base = Bundle.load("bloom-tiny")
    model = nn.to_torch(build(base.model_config, weights=base.weights_path).eval())
    model.name_or_path = "bloom-tiny"
    config = peft.LoraConfig(r=2, target_modules=["query_key_value"], init_lora_weights=False)
    torch.manual_seed(0)
    adapted = peft.get_peft_model(model, config)
    adapted.save_pretrained(tmp_path / "tuned", save_embedding_layers=False)
    bundle = Bundle.load(tmp_path / "tuned")
    assert bundle.name == "tuned" and bundle.task == "language"
    assert "hashes" not in bundle.config and "metrics" not in bundle.config
    about = json.loads((tmp_path / "tuned" / "adapter_config.json").read_text())
    assert about["base_model_name_or_path"] == "bloom-tiny"
    found, want = logits(Predictor.load(bundle).model), logits(adapted)
    # the merged weights have the type of the shipped ones, float16
    torch.testing.assert_close(found, want, atol=0.02, rtol=0.01)
    assert not torch.allclose(found, logits(Predictor.load("bloom-tiny").model), atol=0.1)
