"""init_weights: initializes parameters as `init_cfg` says, in the original's order.

Source: mmengine's BaseModule.init_weights and weight_init.py.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cupola.errors import BuildError, did_you_mean
from cupola.registry.scopes import bare_type

# Loads a checkpoint into a module: (module, file or hub name, prefix of its keys or None).
Loader = Callable[[Any, str, str | None], Any]
Fill = Callable[[Any, Mapping[str, Any]], None]


def init_weights(model: Any, load: Loader | None = None) -> None:
    """Initializes the parameters of a model, module by module and each module once.

    A module's own `init_cfg` comes first, then its children in registration order, then its own
    `Pretrained`, for which `load` is called. A module that defines `init_weights` initializes its
    children itself. BuildError if an `init_cfg` cannot be applied.
    """
    _visit(model, load, set())


def _visit(module: Any, load: Loader | None, done: set[int]) -> None:
    if id(module) in done:
        return
    done.add(id(module))
    cfgs = _as_list(getattr(module, "init_cfg", None))
    for cfg in cfgs:
        if bare_type(cfg) != "Pretrained":
            initialize(module, cfg)
    if callable(getattr(module, "init_weights", None)):
        module.init_weights()
    else:
        for child in module.children():
            _visit(child, load, done)
    for cfg in cfgs:
        if bare_type(cfg) == "Pretrained":
            _load_pretrained(module, cfg, load)


def _load_pretrained(module: Any, cfg: Mapping[str, Any], load: Loader | None) -> None:
    if load is None:
        raise BuildError(
            f"{type(module).__name__} is initialized from {cfg['checkpoint']!r}, "
            "but init_weights was called without a loader"
        )
    load(module, cfg["checkpoint"], cfg.get("prefix"))


def initialize(module: Any, cfg: Mapping[str, Any]) -> None:
    """Applies one `init_cfg` to a module: the layers it names, then its overrides."""
    settings = {key: value for key, value in cfg.items() if key not in ("override", "layer")}
    layers = {name.lstrip("_") for name in _as_list(cfg.get("layer"), (str,))}
    fill = _fill_of(settings)
    for each in _children_first(module):
        if any(kind.__name__.lstrip("_") in layers for kind in (type(each), *type(each).__bases__)):
            fill(each, settings)
    for override in _as_list(cfg.get("override")):
        _override(module, override, settings)


def _override(module: Any, override: Mapping[str, Any], outer: Mapping[str, Any]) -> None:
    own = {key: value for key, value in override.items() if key != "name"}
    name = override.get("name")
    if own and "type" not in own:
        raise BuildError(f"init_cfg: the override of {name!r} needs a 'type'")
    target = getattr(module, str(name), None)
    if target is None:
        known = [child for child, _ in module.named_children()]
        hint = did_you_mean(str(name), known)
        raise BuildError(f"init_cfg: {type(module).__name__} has no {name!r} to override{hint}")
    settings = own or outer
    fill = _fill_of(settings)
    for each in _children_first(target):
        fill(each, settings)


def _fill_of(settings: Mapping[str, Any]) -> Fill:
    kind = bare_type(settings)
    if kind not in FILLS:
        raise BuildError(f"init_cfg: there is no initializer {kind!r}{did_you_mean(kind, FILLS)}")
    return FILLS[kind]


def _children_first(module: Any) -> list[Any]:
    below = [each for child in module.children() for each in _children_first(child)]
    return [*below, module]


def _as_list(value: Any, scalars: tuple[type, ...] = (Mapping,)) -> list[Any]:
    if value is None:
        return []
    return [value] if isinstance(value, scalars) or not isinstance(value, Sequence) else list(value)


def _bias(settings: Mapping[str, Any]) -> float:
    prior = settings.get("bias_prob")
    return float(settings.get("bias", 0)) if prior is None else -math.log((1 - prior) / prior)


def _filler(fill_weight: Fill) -> Fill:
    """Fills the weight of a module with `fill_weight`, and its bias with a constant."""

    def fill(module: Any, settings: Mapping[str, Any]) -> None:
        from torch.nn import init

        if getattr(module, "weight", None) is not None:
            fill_weight(module.weight, settings)
        if getattr(module, "bias", None) is not None:
            init.constant_(module.bias, _bias(settings))

    return fill


def _constant(weight: Any, settings: Mapping[str, Any]) -> None:
    from torch.nn import init

    init.constant_(weight, settings["val"])


def _normal(weight: Any, settings: Mapping[str, Any]) -> None:
    from torch.nn import init

    init.normal_(weight, settings.get("mean", 0), settings.get("std", 1))


def _truncated_normal(weight: Any, settings: Mapping[str, Any]) -> None:
    """Samples by the inverse cumulative distribution function, as mmengine does."""
    import torch

    mean, std = settings.get("mean", 0), settings.get("std", 1)
    low, high = settings.get("a", -2), settings.get("b", 2)
    ends = [math.erf((end - mean) / std / math.sqrt(2)) for end in (low, high)]
    with torch.no_grad():
        weight.uniform_(*ends).erfinv_()
        weight.mul_(std * math.sqrt(2)).add_(mean).clamp_(low, high)


def _uniform(weight: Any, settings: Mapping[str, Any]) -> None:
    from torch.nn import init

    init.uniform_(weight, settings.get("a", 0), settings.get("b", 1))


def _xavier(weight: Any, settings: Mapping[str, Any]) -> None:
    from torch.nn import init

    kind = settings.get("distribution", "normal")
    fill = init.xavier_uniform_ if kind == "uniform" else init.xavier_normal_
    fill(weight, gain=settings.get("gain", 1))


def _kaiming(weight: Any, settings: Mapping[str, Any]) -> None:
    from torch.nn import init

    kind = settings.get("distribution", "normal")
    fill = init.kaiming_uniform_ if kind == "uniform" else init.kaiming_normal_
    names = {"a": 0.0, "mode": "fan_out", "nonlinearity": "relu"}
    fill(weight, **{name: settings.get(name, default) for name, default in names.items()})


def _caffe2_xavier(weight: Any, settings: Mapping[str, Any]) -> None:
    caffe2 = {"a": 1, "mode": "fan_in", "nonlinearity": "leaky_relu", "distribution": "uniform"}
    _kaiming(weight, caffe2)


FILLS: dict[str, Fill] = {
    "Constant": _filler(_constant),
    "Normal": _filler(_normal),
    "TruncNormal": _filler(_truncated_normal),
    "Uniform": _filler(_uniform),
    "Xavier": _filler(_xavier),
    "Kaiming": _filler(_kaiming),
    "Caffe2Xavier": _filler(_caffe2_xavier),
}
