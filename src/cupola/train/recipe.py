"""`cupola train`: from the name of a config to a finished run."""

from collections.abc import Sequence
from pathlib import Path

from cupola.config import Config
from cupola.errors import ConfigError, did_you_mean
from cupola.models.afno.published import is_published, published_config
from cupola.registry import default_scope
from cupola.registry.plugins import load_plugins
from cupola.train.bundling import bundle_run
from cupola.train.teachers import with_teacher
from cupola.train.trainer import Trainer

SHIPPED = Path(__file__).parent.parent / "configs"


def shipped_configs() -> dict[str, Path]:
    """The training configs inside the package, by name."""
    found = sorted(SHIPPED.rglob("*.py"))
    return {path.stem: path for path in found if "train_cfg" in path.read_text()}


def find_config(name: str) -> Path:
    """The path of a config: a file, or the name of a shipped one, with - or _.

    Raises ConfigError with the nearest names if there is none.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = shipped_configs()
    wanted = path.stem.replace("-", "_")
    if wanted in shipped:
        return shipped[wanted]
    raise ConfigError(f"no config file or shipped config {name!r}{did_you_mean(wanted, shipped)}")


def train_recipe(
    name: str,
    work_dir: Path | None = None,
    overrides: Sequence[str] = (),
    resume: bool = False,
    plugins: Sequence[str] = (),
    quiet: bool = False,
    bundle_only: bool = False,
    section: str | None = None,
) -> Path | None:
    """Runs the training config `name`; returns the bundle's folder if the config has a `bundle`.

    With `bundle_only` nothing is trained; the best checkpoint so far is written as the bundle.
    section: of FourCastNet's YAML, see `published_config`.
    """
    load_plugins(tuple(plugins))
    path = find_config(name)
    cfg = Config.load(path)
    if section is not None or is_published(cfg):
        cfg = Config(published_config(cfg.to_dict(), section, str(path)), path)
    if overrides:
        cfg = cfg.override(overrides)
    work_dir = work_dir or Path("work_dirs") / path.stem
    content = with_teacher(cfg.to_dict(), path)
    with default_scope(content.get("default_scope")):
        trainer = Trainer(content, work_dir, quiet)
        if bundle_only and not trainer.cfg.get("bundle"):
            raise ConfigError(f"{path} has no `bundle` section, so there is no bundle to write")
        if not bundle_only:
            trainer.run(resume)
        if not trainer.cfg.get("bundle") or not trainer.ranks.first or trainer.ranks.fsdp:
            return None
        return bundle_run(trainer).path
