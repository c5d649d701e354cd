"""Detectors that learn from another one: its config and its checkpoint, as published."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import cupola
from cupola.errors import CheckpointError, ConfigError
from cupola.train import recipe
from cupola.train.trainer import Trainer
from models.dense.dense_small import model

DISTILL = {"type": "KnowledgeDistillationKLDivLoss", "loss_weight": 0.25, "T": 10}
RUN = {
    "train_dataloader": {
        "batch_size": 1,
        "dataset": {"type": "DigitsInPhotos", "count": 4, "size": 64},
    },
    "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 1e-3}},
    "train_cfg": {"max_iters": 1},
}


def distilled(**settings: Any) -> dict[str, Any]:
    """GFL that learns from another GFL."""
    plain = with_classes(model("gfl"))
    head = {**plain["bbox_head"], "type": "LDHead", "loss_ld": DISTILL}
    kind = "KnowledgeDistillationSingleStageDetector"
    return {**plain, "type": kind, "bbox_head": head, "teacher_config": {"model": plain}} | settings


def assigned(**settings: Any) -> dict[str, Any]:
    """LAD: PAA whose anchors a teacher assigns."""
    plain = with_classes(model("paa"))
    parts = {f"teacher_{key}": plain[key] for key in ("backbone", "neck", "bbox_head")}
    head = {**plain["bbox_head"], "type": "LADHead"}
    return {**plain, "type": "LAD", "bbox_head": head, **parts} | settings


def with_classes(cfg: dict[str, Any]) -> dict[str, Any]:
    return {**cfg, "bbox_head": {**cfg["bbox_head"], "num_classes": 10}}


def weights(cfg: dict[str, Any], path: Path) -> dict[str, Tensor]:
    torch.manual_seed(3)
    state: dict[str, Tensor] = cupola.build(cfg).state_dict()
    torch.save({"state_dict": state}, path)
    return state


def same(teacher: Any, state: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, state[key]) for key, value in teacher.state_dict().items())


@pytest.mark.parametrize(("family", "student"), [("gfl", distilled), ("paa", assigned)])
def test_the_teacher_starts_from_its_checkpoint(family: str, student: Any, tmp_path: Path) -> None:
    path = tmp_path / "teacher.pth"
    state = weights(with_classes(model(family)), path)
    trainer = Trainer({"model": student(teacher_ckpt=str(path)), **RUN}, tmp_path / "run", True)
    trainer.run()
    assert same(trainer.model.teacher, state)
    assert any("model.teacher_ckpt: loaded" in note for note in trainer._notes)
    resumed = Trainer({"model": student(teacher_ckpt=str(path)), **RUN}, tmp_path / "run", True)
    resumed.run(resume=True)  # a checkpoint of the student has no teacher
    assert same(resumed.model.teacher, state)


def test_the_teacher_without_a_checkpoint_is_random_and_said(tmp_path: Path) -> None:
    trainer = Trainer({"model": distilled(), **RUN}, tmp_path, True)
    trainer._begin(resume=False)
    assert any("teacher has random weights" in note for note in trainer._notes)


@pytest.mark.parametrize(
    ("checkpoint", "said"),
    [
        (
            "https://download.openmmlab.com/gfl/never.pth",
            r"model\.teacher_ckpt: .* offline mode",
        ),
        ("no/such.pth", "no/such.pth"),
    ],
)
def test_a_missing_checkpoint_of_the_teacher(
    checkpoint: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    trainer = Trainer({"model": distilled(teacher_ckpt=checkpoint), **RUN}, tmp_path / "run", True)
    with pytest.raises(CheckpointError, match=said):
        trainer.run()


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    """The folders of MMDetection's repository, and a checkpoint of the teacher."""
    teacher = with_classes(model("gfl"))
    student = distilled(
        teacher_config="configs/gfl/teacher.py", teacher_ckpt=str(tmp_path / "teacher.pth")
    )
    weights(teacher, tmp_path / "teacher.pth")
    for name, cfg in (
        ("gfl/teacher", {"model": teacher}),
        ("ld/student", {"model": student, **RUN}),
    ):
        path = tmp_path / f"configs/{name}.py"
        path.parent.mkdir(parents=True)
        path.write_text("".join(f"{key} = {value!r}\n" for key, value in cfg.items()))
    return tmp_path / "configs"


def test_the_path_of_the_teachers_config_is_that_in_its_repository(
    configs: Path, tmp_path: Path
) -> None:
    recipe.train_recipe(str(configs / "ld/student.py"), work_dir=tmp_path / "run", quiet=True)
    assert "loss_ld" in (tmp_path / "run/log.jsonl").read_text()


def test_a_missing_config_of_the_teacher(configs: Path, tmp_path: Path) -> None:
    (configs / "gfl/teacher.py").unlink()
    with pytest.raises(ConfigError, match=r"teacher_config: .*configs/gfl/teacher.py"):
        recipe.train_recipe(str(configs / "ld/student.py"), work_dir=tmp_path / "run", quiet=True)
