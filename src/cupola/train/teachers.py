"""Teachers of distillation: their config and checkpoint, which a config names by their paths.

Source: mmdet/models/detectors/kd_one_stage.py and lad.py, which read both when they are built.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cupola.config import Config
from cupola.errors import ConfigError
from cupola.train.initial import find_weights, load_fitting


def with_teacher(cfg: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The training config of the file `path` with the model of its teacher's config.

    `model.teacher_config` may be a path: from the current folder or, as in MMDetection's
    repository, from one of the folders that `path` lies in. ConfigError if there is no such file.
    """
    model = cfg.get("model")
    name = model.get("teacher_config") if isinstance(model, Mapping) else None
    if not isinstance(name, str):
        return dict(cfg)
    file = _find(name, path)
    teacher = Config.load(file).to_dict().get("model")
    if not isinstance(teacher, dict):
        raise ConfigError(f"model.teacher_config: {file} has no model")
    return {**cfg, "model": {**model, "teacher_config": {"model": teacher}}}  # type: ignore[dict-item]


def _find(name: str, path: Path) -> Path:
    folders = (Path(), *path.absolute().parents)
    file = next((each / name for each in folders if (each / name).is_file()), None)
    if file is None:
        raise ConfigError(
            f"model.teacher_config: no file {name} in the current folder or in a folder that "
            f"{path} is in; set it to the path of the teacher's config"
        )
    return file


def load_teacher(model: Any) -> list[str]:
    """Loads `teacher_ckpt` of a model with a teacher; returns the line to say, if it has one.

    A checkpoint is a file, or a URL that is looked for in torch's cache. Raises CheckpointError if
    it is missing or nothing fits.
    """
    if not hasattr(model, "teacher_ckpt"):
        return []
    if model.teacher_ckpt is None:
        return ["model.teacher_ckpt is not set: the teacher has random weights"]
    where = "model.teacher_ckpt"
    return [f"{where}: {load_fitting(model.teacher, find_weights(model.teacher_ckpt, where))}"]
