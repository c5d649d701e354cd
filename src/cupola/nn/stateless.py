"""Calls of a module with other tensors than its own."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.utils.stateless import _untie_named_tensors_map

from cupola.nn.traversal import AnyModule

Tensors = dict[str, Tensor]
ABSENT: Final = object()


def functional_call(
    module: AnyModule,
    parameters_and_buffers: Tensors | Sequence[Tensors],
    args: Any = None,
    kwargs: dict[str, Any] | None = None,
    *,
    tie_weights: bool = True,
    strict: bool = False,
) -> Any:
    """Call a module as if its parameters and buffers were the given ones.

    Args:
        parameters_and_buffers: path -> tensor, or several such dictionaries. Tensors that forward
            reassigns are written back. A name that the module lacks exists during the call.
        args: a tuple of positional arguments, or a single one.
        tie_weights: use the value of a shared tensor for all paths that lead to it.
        strict: raise RuntimeError unless exactly the paths of the module are given.

    Raises:
        AttributeError: a path leads through a module that does not exist.
        TypeError: a value, or the attribute that it would replace, is not a tensor.
        RuntimeError: the module is one of torch.jit.
        ValueError: a shared tensor, or a path in two dictionaries, has two values.
    """
    if isinstance(module, (torch.jit.ScriptModule, torch.jit.ScriptFunction)):
        raise RuntimeError("The stateless API can't be used with Jitted modules")
    given = _one_dictionary(parameters_and_buffers)
    values = _untie_named_tensors_map(module, given) if tie_weights else dict(given)
    if strict:
        _check_paths(module, values)
    before: dict[str, Any] = {}
    try:
        for path, value in values.items():
            before[path] = _swap(module, path, value)
        positional = () if args is None else args if isinstance(args, tuple) else (args,)
        return module(*positional, **(kwargs or {}))
    finally:
        after = {path: _swap(module, path, before[path]) for path in reversed(before)}
        given.update({path: after[path] for path in given if path in after})


def _one_dictionary(given: Tensors | Sequence[Tensors]) -> Tensors:
    if isinstance(given, dict):
        return given
    if not isinstance(given, Sequence) or not all(isinstance(part, dict) for part in given):
        raise ValueError(
            f"Expected parameters_and_buffers to be a dict or a sequence of dicts, got {given}"
        )
    counts = Counter(path for part in given for path in part)
    repeated = [path for path, count in counts.items() if count > 1]
    if repeated:
        raise ValueError(
            f"{repeated} appeared in multiple dictionaries; "
            "behavior of functional call is ambiguous"
        )
    return {path: value for part in given for path, value in part.items()}


def _swap(root: AnyModule, path: str, value: Any) -> Any:
    """Put a value at a path without the rules of assignment; return the old one or ABSENT."""
    owner, _, name = path.rpartition(".")
    module = root.get_submodule(owner)
    if value is not None and value is not ABSENT and not isinstance(value, Tensor):
        raise TypeError(f"{value} is not an instance of torch.Tensor")
    before = getattr(module, name, ABSENT)
    if value is ABSENT:
        delattr(module, name)
        return before
    for members in (module._parameters, module._buffers):
        if name in members:
            members[name] = value
            return before
    if before is not ABSENT and before is not None and not isinstance(before, Tensor):
        raise TypeError(f"attribute `{name}`: {before} is not an instance of torch.Tensor")
    setattr(module, name, value)
    return before


def _named_tensors(module: AnyModule) -> Tensors:
    parameters = module.named_parameters(remove_duplicate=False)
    return dict([*parameters, *module.named_buffers(remove_duplicate=False)])


def _check_paths(module: AnyModule, values: Mapping[str, Tensor]) -> None:
    own = _named_tensors(module)
    unexpected, missing = sorted(values.keys() - own), sorted(own.keys() - values)
    problems = [
        f"{what} key(s): {', '.join(map(repr, paths))}."
        for what, paths in (("Unexpected", unexpected), ("Missing", missing))
        if paths
    ]
    if problems:
        lines = "\n\t".join(problems)
        raise RuntimeError(f"Error(s) in reparametrizing for {module._get_name()}:\n\t{lines}")
