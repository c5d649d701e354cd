"""Saving: ``state_dict``."""

import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

from cupola.nn.class_checks import TorchModule
from cupola.nn.hooks import HOOKED, Hooks
from cupola.nn.members import BUFFERS, MODULES, PARAMETERS, TRANSIENT, table_of
from cupola.nn.traversal import Traversal

EXTRA_STATE: Final = "_extra_state"


class Saving(Traversal, Hooks):
    """Saves a tree as a flat dictionary of tensors."""

    _version: int = 1

    def state_dict(
        self, *args: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False
    ) -> Any:
        """Return an OrderedDict of path -> tensor: parameters and persistent buffers, detached
        unless ``keep_vars``. ``_metadata`` on it maps each module's path to its ``version``.
        ``destination`` is filled and returned instead of a new one.
        """
        if args:
            advice = "Positional args are being deprecated, use kwargs instead."
            warnings.warn(advice, FutureWarning, stacklevel=2)
            given = (*args, *(destination, prefix, keep_vars)[len(args) :])
            destination, prefix, keep_vars = given
        if destination is None:
            destination = OrderedDict()
            destination._metadata = OrderedDict()
        metadata = getattr(destination, "_metadata", None)
        return _save(self, destination, metadata, prefix, keep_vars)

    _save_to_state_dict: Callable[..., None] = TorchModule._save_to_state_dict
    get_extra_state: Callable[[Any], Any] = TorchModule.get_extra_state


def own_state(module: Any) -> list[tuple[str, Any]]:
    """Return (name, tensor) for what is saved of a module: parameters, then buffers."""
    values = module.__dict__
    parameters, buffers = values.get(PARAMETERS), values.get(BUFFERS)
    found = [pair for pair in parameters.items() if pair[1] is not None] if parameters else []
    if buffers:
        transient = values.get(TRANSIENT, ())
        found += [(k, v) for k, v in buffers.items() if v is not None and k not in transient]
    return found


def _save(module: Any, destination: Any, metadata: Any, prefix: str, keep_vars: bool) -> Any:
    """Save a module and all below it."""
    cls, values = type(module), module.__dict__
    local_metadata = {"version": cls._version}
    if metadata is not None:
        metadata[prefix[:-1]] = local_metadata
    hooked = HOOKED in values
    if hooked:
        for hook in table_of(module, "_state_dict_pre_hooks").values():
            hook(module, prefix, keep_vars)
    if cls._save_to_state_dict is _SAVE and cls.get_extra_state is _EXTRA:
        own = values.get(PARAMETERS)  # most modules have no buffers, and many no parameters
        for name, value in own_state(module) if BUFFERS in values else own.items() if own else ():
            if value is not None:
                destination[prefix + name] = value if keep_vars else value.detach()
    else:
        module._save_to_state_dict(destination, prefix, keep_vars)
    children = values[MODULES]
    for name, child in children.items() if children else ():
        if child is None:
            continue
        path = f"{prefix}{name}."
        if type(child).state_dict is _STATE_DICT:
            _save(child, destination, metadata, path, keep_vars)
        else:  # a torch module, or one with its own saving code
            child.state_dict(destination=destination, prefix=path, keep_vars=keep_vars)
    return _run_hooks(module, destination, prefix, local_metadata) if hooked else destination


_SAVE, _EXTRA = TorchModule._save_to_state_dict, TorchModule.get_extra_state
_STATE_DICT = Saving.state_dict


def _run_hooks(module: Any, destination: Any, prefix: str, metadata: Any) -> Any:
    for hook in table_of(module, "_state_dict_hooks").values():
        result = hook(module, destination, prefix, metadata)
        if result is not None:
            if getattr(hook, "_from_public_api", False):
                raise RuntimeError("state_dict post-hook must return None")
            destination = result
    return destination
