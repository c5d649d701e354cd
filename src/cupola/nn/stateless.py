"""Calling a module with other tensors in place of its own."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cupola.nn.traversal import AnyModule


def functional_call(
    module: AnyModule,
    parameters_and_buffers: dict[str, Tensor],
    args: Any = None,
    kwargs: dict[str, Any] | None = None,
    *,
    tie_weights: bool = True,
    strict: bool = False,
) -> Any:
    """Call a module as if its parameters and buffers were the given ones.

    Args:
        parameters_and_buffers: path -> tensor; what forward assigns anew is written back to it.
        args: a tuple of positional arguments, or the only one.
        tie_weights: give a shared tensor's value to all paths that lead to it.
        strict: raise RuntimeError unless every path of the module is given, and no other.

    Raises:
        AttributeError: a path leads nowhere.
        ValueError: two values for one shared tensor.
    """
    given = parameters_and_buffers
    values = _spread_over_ties(module, given) if tie_weights else dict(given)
    if strict:
        _check_paths(module, values)
    slots = {path: _Slot(module, path) for path in values}
    before: dict[str, Any] = {}
    try:
        for path, value in values.items():
            before[path] = slots[path].swap(value)
        positional = () if args is None else args if isinstance(args, tuple) else (args,)
        return module(*positional, **(kwargs or {}))
    finally:
        after = {path: slots[path].swap(before[path]) for path in reversed(list(before))}
        given.update({path: after[path] for path in given if path in after})


class _Slot:
    """The place where a tensor of a path lies."""

    def __init__(self, root: AnyModule, path: str) -> None:
        owner, _, self.name = path.rpartition(".")
        self.module = root.get_submodule(owner)
        if not hasattr(self.module, self.name):
            raise AttributeError(f"{self.module._get_name()} has no attribute `{self.name}`")

    def swap(self, value: Any) -> Any:
        """Put a value there, past the rules of assignment; return what was there."""
        for members in (self.module._parameters, self.module._buffers):
            if self.name in members:
                before = members[self.name]
                members[self.name] = value
                return before
        before = getattr(self.module, self.name)
        if not isinstance(before, Tensor):
            raise TypeError(f"attribute `{self.name}`: {before} is not an instance of torch.Tensor")
        setattr(self.module, self.name, value)
        return before


def _named_tensors(module: AnyModule) -> dict[str, Tensor]:
    return dict(
        [
            *module.named_parameters(remove_duplicate=False),
            *module.named_buffers(remove_duplicate=False),
        ]
    )


def _spread_over_ties(module: AnyModule, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    groups: dict[int, list[str]] = {}
    for path, tensor in _named_tensors(module).items():
        groups.setdefault(id(tensor), []).append(path)
    values = dict(given)
    for paths in groups.values():
        named = [path for path in paths if path in given]
        if len({id(given[path]) for path in named}) > 1:
            raise ValueError(
                f"functional_call got multiple values for keys {named}, which are tied. "
                "Consider using tie_weights=False"
            )
        values |= dict.fromkeys(paths, given[named[0]]) if named else {}
    return values


def _check_paths(module: AnyModule, values: Mapping[str, Tensor]) -> None:
    own = _named_tensors(module)
    unexpected = [path for path in values if path not in own]
    missing = [path for path in own if path not in values]
    problems = [
        f"{what} key(s): {', '.join(map(repr, paths))}."
        for what, paths in (("Unexpected", unexpected), ("Missing", missing))
        if paths
    ]
    if problems:
        lines = "\n\t".join(problems)
        raise RuntimeError(f"Error(s) in reparametrizing for {module._get_name()}:\n\t{lines}")
