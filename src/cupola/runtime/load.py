"""Finds the model that a source names, and makes its predictor.

Importing this module loads no torch, so that predictors which need none stay light.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cupola.bundles import Bundle
from cupola.bundles.downloads import find_checkpoint
from cupola.bundles.hub import is_hub_id
from cupola.bundles.optimizations import checked as check_optimization
from cupola.config import CONFIG_SUFFIXES, Config
from cupola.errors import BundleError, ConfigError
from cupola.runtime import tasks
from cupola.runtime.collection import without_collection
from cupola.runtime.optimize.execution import Execution, Row
from cupola.runtime.predictor import Predictor

if TYPE_CHECKING:
    from cupola.parallel import Group

Source = str | Path | Bundle


def load_predictor(
    source: Source,
    weights: str | Path | None = None,
    *,
    revision: str | None = None,
    offline: bool = False,
    device: Any = None,
    tta: bool = False,
    optimization: str | None = None,
    at_once: bool = False,
    **options: Any,
) -> Predictor:
    """A predictor for anything that `open_bundle` finds.

    With `tta`, detectors of boxes merge what they find in several views of an image, as their
    config declares them. Options: threshold, labels (detection), others as the task's predictor
    takes them. Detectors run on any `device` of torch, by default on the CPU; InputError if it is
    not there.

    optimization: how the network is executed: "auto" takes the fastest engine of this machine, and
    bundles/optimizations.py has the others. Without it the model stays as it was loaded, which
    training and gradients need. at_once: "auto" takes an engine that was chosen earlier, or one
    that needs no measuring.
    """
    if optimization is not None:
        check_optimization(optimization)
    bundle = open_bundle(source, weights, revision, offline)
    task = tasks.find(bundle.task)
    model = None
    with without_collection():
        if "model" in bundle.config:
            from cupola.runtime.building import build

            types = task.build_options(bundle)
            model = build(bundle.model_config, weights=bundle.weights_path, **types).eval()
        predictor = task.predictor(bundle, model)
    _apply(predictor, options)
    if device is not None:
        predictor.to(device)
    if optimization is not None:
        execute(predictor, bundle, optimization, at_once=at_once)
    return task.augmented(predictor) if tta else predictor


def execute(predictor: Predictor, bundle: Bundle, optimization: str, **options: Any) -> None:
    """Applies an optimization; options as `cupola.runtime.optimize.selection.optimize` has them."""
    if predictor.model is None:
        reason = Row("eager", reason="there is no model")
        predictor.execution = Execution(
            check_optimization(optimization, predictor.task), "eager", (reason,)
        )
        return
    samples: list[Any] = []
    with without_collection():
        from cupola.runtime.optimize.selection import needs_samples, optimize

        if needs_samples(predictor, optimization):
            samples = tasks.find(predictor.task).calibration_samples(predictor, bundle)
    optimize(predictor, optimization, samples, **options)


def open_bundle(
    source: Source,
    weights: str | Path | None = None,
    revision: str | None = None,
    offline: bool = False,
    overrides: Sequence[str] = (),
) -> Bundle:
    """What a source names, with no weights read yet.

    A source is the name of a shipped bundle, the folder of a bundle or of a language model's or
    detector's checkpoint as transformers saves it, an id on the hub (`hf://ORG/NAME`), or a config
    file with its checkpoint as `weights`, changed by `overrides` such as
    "model.test_cfg.rcnn.score_thr=0.1". BundleError, ConfigError.
    """
    if isinstance(source, Bundle) or not is_config(source):
        if overrides:
            raise BundleError(
                f"--set {overrides[0]}: {source} is a bundle, whose config goes with its weights; "
                "give a config file and its checkpoint, or make another bundle (cupola bundle)"
            )
        bundle = Bundle.load(source, revision, offline)
        return replace(bundle, weights=find_checkpoint(weights, offline)) if weights else bundle
    if weights is None:
        from cupola.bundles.model_index import published_weights

        url = published_weights(Path(source))
        hint = f", a file or a URL; its published one is {url}" if url else ""
        raise BundleError(f"{source}: a config needs a checkpoint; pass weights= (--weights){hint}")
    opened, weights = open_config(source, overrides), find_checkpoint(weights, offline)
    if opened.task == "detection3d":
        from cupola.runtime.building import warn_of_old_boxes

        warn_of_old_boxes(opened.model_config, weights, None)
    return replace(opened, weights=weights, offline=offline)


def open_config(source: str | Path, overrides: Sequence[str] = ()) -> Bundle:
    """A config file as the bundle that it would make, without weights. ConfigError."""
    from cupola.runtime.published import bundle_config

    path = Path(source)
    cfg = read_config(path, overrides)
    own = cfg.get("bundle")  # what training writes into its bundle
    about = own if isinstance(own, Mapping) else {}
    kept = {key: about[key] for key in ("preprocess", "postprocess") if key in about}
    return Bundle(path.parent, {**bundle_config(cfg, path.stem), **kept})


def is_config(source: str | Path) -> bool:
    """Whether a source is a config file, not a bundle."""
    return not is_hub_id(source) and Path(source).suffix in CONFIG_SUFFIXES


def model_config(source: str | Path) -> dict[str, Any]:
    """The model's build config, of a config file or of a bundle."""
    if not is_config(source):
        return Bundle.load(source).model_config
    config = read_config(source)
    if "model" not in config:
        raise ConfigError(f"{source}: holds no `model`")
    return dict(config["model"])


def read_config(source: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A config file; of FourCastNet's YAML the usual section as a training config."""
    from cupola.models.afno.published import published_config

    cfg = Config.load(source).override(overrides) if overrides else Config.load(source)
    return published_config(cfg.to_dict(), where=str(source))


def load_shard(source: Source, group: "Group") -> Predictor:
    """A predictor of this rank's part of a model; only that part of the weights is read."""
    from cupola.runtime.building import build_part

    bundle = Bundle.load(source)
    task = tasks.find(bundle.task)
    if not task.tensor_parallel:
        raise BundleError(f"{bundle.name}: a {task.name} model cannot be split over ranks")
    options = task.build_options(bundle)
    model = build_part(bundle.model_config, bundle.weights_path, group, **options)
    return task.predictor(bundle, model.eval())


def warm(names: Collection[str]) -> None:
    """Imports what the models of these tasks need, so that processes forked later share it."""
    modules = {module: None for name in names for module in tasks.find(name).modules}
    with without_collection():
        for module in modules:
            import_module(module)
    if modules:
        import_module("cupola.registry.plugins").load_entry_points()


def _apply(predictor: Predictor, options: Mapping[str, Any]) -> None:
    for key, value in options.items():
        if not hasattr(predictor, key):
            raise TypeError(f"{type(predictor).__name__} has no option {key!r}")
        setattr(predictor, key, value)
