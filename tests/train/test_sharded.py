"""parallel.fsdp: the losses and the weights are those of one process, and any number of ranks reads
a checkpoint."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cupola import nn
from cupola.errors import BuildError, CheckpointError
from cupola.registry import build
from cupola.train.checkpoints import load_checkpoint, save_sharded, training_state
from cupola.train.recipe import train_recipe
from cupola.train.sections import parallel_layout
from models.conditional_detr.small import conditional_config
from models.conditional_detr.test_options import BATCH
from ranks import RankPool
from train.test_training_ranks import curve, torchrun, write_config
from train.test_two_nodes import Nodes, kill_one_rank

BLOOM = {"type": "BloomForCausalLM", "vocab_size": 50, "hidden_size": 16, "n_layer": 2, "n_head": 4}
IDS = torch.randint(0, 50, (4, 6), generator=torch.Generator().manual_seed(0))
ROWS = {"input_ids": IDS, "labels": IDS}


def trained(config: dict[str, Any], batch: dict[str, Any], mesh: Any = None) -> dict[str, Any]:
    """Three steps; over the ranks of a mesh if there is one. The weights come back whole."""
    torch.manual_seed(0)
    model = build(config).train()
    if mesh is not None:
        from cupola.train.sharded import shard

        shard(model, mesh.data, torch.device("cpu"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = torch.stack([v for k, v in model.loss(batch).items() if "loss" in k]).sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    state = {"model": dict(model.state_dict()), "optimizer": optimizer.state_dict()}
    return {"step": 3, "validated": 0, "losses": losses, **state}


def sharded(mesh: Any, folder: Path) -> dict[str, Any]:
    from cupola.train.sharded import gathered

    part = {name: value[mesh.data.rank :: mesh.data.size] for name, value in ROWS.items()}
    state = trained(BLOOM, part, mesh)
    split = state["model"]["transformer.blocks.0.mlp.dense_h_to_4h.weight"]
    save_sharded(state, folder / "latest.pth", mesh.data)
    break_off(state, folder / "latest.pth", mesh.data)
    detector = trained(conditional_config(), BATCH, mesh)  # the same batch on each rank
    kept = {"losses": detector["losses"], "model": gathered(detector["model"])}
    return {"bloom": gathered(state), "rows": split.to_local().shape[0], "detector": kept}


def break_off(state: dict[str, Any], path: Path, data: Any) -> None:
    """Saves a later state; the last rank fails when its part is written."""
    from cupola.train import sharded

    write = sharded.HuggingFaceStorageWriter.write_data

    def fail(*arguments: Any) -> Any:
        write(*arguments)
        if data.rank == data.size - 1:
            raise OSError("disk full")
        return write(*arguments)

    sharded.HuggingFaceStorageWriter.write_data = fail  # type: ignore[method-assign]
    try:
        with pytest.raises(sharded.CheckpointException, match="disk full"):
            save_sharded({**state, "step": 4}, path, data)
    finally:
        sharded.HuggingFaceStorageWriter.write_data = write  # type: ignore[method-assign]


def assert_same(found: dict[str, Any], expected: dict[str, Any], atol: float = 1e-5) -> None:
    assert found["model"].keys() == expected["model"].keys()
    for name, value in expected["model"].items():
        torch.testing.assert_close(found["model"][name], value, rtol=1e-4, atol=atol)


@pytest.fixture(scope="module")
def two() -> Iterator[RankPool]:
    pool = RankPool(2)  # its own: DTensor caches groups, and others start and stop them
    yield pool
    pool.close()


@pytest.mark.processes
@pytest.mark.filterwarnings("ignore")  # torch.distributed.checkpoint warns of its own parts
def test_two_ranks_train_as_one_process(two: RankPool, tmp_path: Path) -> None:
    first, second = two.run(sharded, tmp_path, tensor=1)
    one = trained(BLOOM, ROWS)
    means = torch.tensor([first["bloom"]["losses"], second["bloom"]["losses"]]).mean(0)
    torch.testing.assert_close(means, torch.tensor(one["losses"]))
    assert first["rows"] == second["rows"] == 32
    assert_same(first["bloom"], one)
    detector = trained(conditional_config(), BATCH)
    for each in (first["detector"], second["detector"]):
        torch.testing.assert_close(each["losses"], detector["losses"])
        assert_same(each, detector)

    path = tmp_path / "latest.pth"
    read = load_checkpoint(path)
    for name, value in first["bloom"]["model"].items():
        assert torch.equal(read["model"][name], value)
    for index, moments in first["bloom"]["optimizer"]["state"].items():
        found = read["optimizer"]["state"][index]["momentum_buffer"]
        assert torch.equal(found, moments["momentum_buffer"])
    assert (training_state(path) or {}).keys() == one["model"].keys()
    assert read["step"] == 3 and (tmp_path / "latest-4-0").is_dir()  # which was broken off
    folder = tmp_path / "latest-3-0"
    (folder / next(folder.glob("*00002*")).name).unlink()
    with pytest.raises(CheckpointError, match=r"latest-3-0: no complete .* is missing"):
        load_checkpoint(path)
    for left in folder.iterdir():
        left.write_bytes(b"no safetensors")
    with pytest.raises(CheckpointError, match=r"latest-3-0: no complete sharded checkpoint"):
        load_checkpoint(path)


def test_blocks_are_what_is_repeated_and_shares_nothing() -> None:
    from cupola.train.sharded import blocks

    def layer(linear: nn.Module | None = None) -> nn.Module:
        made = nn.Module()
        made.linear = linear or nn.Linear(2, 2)
        return made

    shared = nn.Linear(2, 2)
    inner = layer(layer())
    model = nn.to_torch(
        nn.ModuleDict(
            {
                "layers": nn.ModuleList([inner, layer(), layer(shared), layer(shared)]),
                "convs": nn.Sequential(nn.Linear(2, 2), nn.ModuleList([layer()])),
                "same": nn.ModuleList([layer()] * 2),
                "head": nn.Linear(2, 2),
            }
        )
    )
    layers, convs = model["layers"], model["convs"]
    assert blocks(model) == [convs[1][0], layers[1], layers[0]]


@pytest.mark.parametrize(
    ("parallel", "text"),
    [
        ({"fsdp": True, "tensor": 2}, "remove tensor or fsdp"),
        ({"fsdp": "yes"}, "fsdp is True or False"),
        ({"tensor": 0}, "tensor is a number of ranks"),
        ({"fdsp": True}, "unknown key 'fdsp'.*fsdp"),
    ],
)
def test_errors_of_the_layout(parallel: dict[str, Any], text: str) -> None:
    with pytest.raises(BuildError, match=text):
        parallel_layout({"parallel": parallel, "optim_wrapper": {}})


def test_float16_is_not_sharded() -> None:
    wrapper = {"type": "AmpOptimWrapper", "dtype": "float16"}
    with pytest.raises(BuildError, match="bfloat16"):
        parallel_layout({"parallel": {"fsdp": True}, "optim_wrapper": wrapper})
    assert parallel_layout({"parallel": {"tensor": 2}, "optim_wrapper": wrapper}) == (2, False)


def write_sharded_config(folder: Path, steps: int) -> Path:
    path = write_config(folder, steps)
    best = 'checkpoint=dict(save_best="perplexity", rule="less", '
    changed = (
        path.read_text().replace("checkpoint=dict(", best).replace("interval=10", "interval=4")
    )
    path.write_text(changed + "\nema = dict(decay=0.9)\nparallel = dict(fsdp=True)\n")
    return path


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.timeout(900)
def test_a_checkpoint_of_two_ranks_goes_on_with_one_and_with_three(tmp_path: Path) -> None:
    config = write_sharded_config(tmp_path, 18)
    batch = "train_dataloader.batch_size"
    train_recipe(str(config), work_dir=tmp_path / "one", quiet=True, overrides=[f"{batch}=6"])
    for ranks, steps in ((2, 6), (1, 10), (3, 14), (2, 18)):
        sets = (f"train_cfg.max_iters={steps}", f"train_cfg.val_interval={steps}")
        stop = [word for each in sets for word in ("--set", each)]
        torchrun(
            config, ranks, 1, tmp_path / "many", *stop, "--set", f"{batch}={6 // ranks}", "--resume"
        )
    one, many = (load_checkpoint(tmp_path / name / "latest.pth") for name in ("one", "many"))
    assert_same(many, one)
    assert many["average"]["updates"] == one["average"]["updates"] == 18


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.timeout(900)
def test_a_killed_rank_of_two_sharded_nodes(tmp_path: Path) -> None:
    config = write_sharded_config(tmp_path, 60)
    train_recipe(str(config), work_dir=tmp_path / "one", quiet=True)
    kill_one_rank(Nodes(config, 1, tmp_path / "two", "--set", "train_dataloader.batch_size=2"))
    (one, one_end), (two, two_end) = curve(tmp_path / "one"), curve(tmp_path / "two")
    assert max(abs(a - b) for a, b in zip(one, two, strict=True)) < 1e-5
    assert two_end == pytest.approx(one_end, rel=1e-4)
    last = [load_checkpoint(tmp_path / name / "latest.pth") for name in ("two", "one")]
    assert_same(last[0], last[1], atol=1e-4)  # AdamW after 60 steps
    assert not [each for each in (tmp_path / "two").iterdir() if each.name.startswith("latest-")]
