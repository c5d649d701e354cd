"""The models of the setting `model_dir`; a config with its checkpoint becomes a bundle first.

Bundles are made by another process, which imports torch, and kept in the folder for temporary
files: their names are derived from the files, so that a reload or another start finds them.
"""

import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import cupola
from cupola.bundles.model_folders import FoundModel, find_models
from cupola.errors import BundleError
from cupola.serve.ipc.paths import check_root
from cupola.serve.settings.model import ModelSettings
from cupola.serve.settings.settings import Settings

logger = logging.getLogger("cupola")


def models_of_folder(settings: Settings) -> list[ModelSettings]:
    """An entry of `models` for each model of `model_dir`. BundleError, ConfigError."""
    assert settings.model_dir is not None
    found = find_models(settings.model_dir)
    if settings.model_name is not None and len(found) > 1:
        logger.warning(
            "model_name: %s holds %d models, which keep their own names",
            settings.model_dir, len(found),
        )  # fmt: skip
    entries = []
    for model in found:
        name = settings.model_name if len(found) == 1 and settings.model_name else model.name
        bundle = model.path if model.config is None else converted(model, settings.plugins)
        about = {"bundle": str(bundle), "name": name, "version": model.version}
        entries.append(ModelSettings.model_validate({**settings.model_defaults, **about}))
    return entries


def converted(model: FoundModel, plugins: list[str]) -> Path:
    """The folder of the bundle that `cupola bundle` makes of a config and its checkpoint."""
    assert model.config is not None and model.checkpoint is not None
    name = model.name or model.config.stem
    out = _bundles_folder() / cupola.__version__ / model.digest() / name
    if (out / "config.json").is_file():
        return out
    command = [sys.executable, "-m", "cupola", "bundle"]
    command += [str(model.config), str(model.checkpoint), str(out), "--name", name]
    for option, path in (model.statistics or {}).items():
        command += [f"--{option}", str(path)]
    for plugin in plugins:
        command += ["--plugin", plugin]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise BundleError(
            f"{model.path}: cannot make a bundle of {model.config.name} and "
            f"{model.checkpoint.name}: {said[-1].removeprefix('cupola: ')}"
        )
    return out


def _bundles_folder() -> Path:
    """The folder of such bundles, which only this user may write to. ConfigError otherwise."""
    folder = Path(tempfile.gettempdir()) / f"cupola-bundles-{os.getuid()}"
    try:
        folder.mkdir(mode=0o755)
        folder.chmod(0o755)  # runners may have a user of their own
    except FileExistsError:
        check_root(folder, "TMPDIR")
    except OSError as error:
        raise BundleError(
            f"{folder}: cannot be made ({error.strerror}); point TMPDIR to a folder that can be "
            "written to"
        ) from None
    return folder
