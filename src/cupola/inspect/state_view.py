"""The state and the hooks of every module: what is saved, tied, split, and from where."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cupola.inspect.probe import shape_text

HOOKS = {
    "_forward_pre_hooks": "before forward",
    "_forward_hooks": "after forward",
    "_backward_pre_hooks": "before backward",
    "_backward_hooks": "after backward",
    "_state_dict_pre_hooks": "before saving",
    "_state_dict_hooks": "after saving",
    "_load_state_dict_pre_hooks": "before loading",
    "_load_state_dict_post_hooks": "after loading",
}
Row = dict[str, Any]


def states(model: Any, origins: Mapping[str, str] | None = None) -> dict[str, list[Row]]:
    """By path of the module, its own tensors in the order of the state dict.

    kind is "parameter", "buffer" or "buffer, not saved"; tied names the first place of a tensor
    that hangs in several; split is the dimension that tensor-parallel ranks share. origins: key of
    the state dict -> key of the checkpoint that filled it, as LoadReport has them.
    """
    first: dict[int, str] = {}
    found: dict[str, list[Row]] = {}
    for path, module in model.named_modules():
        unsaved = module._non_persistent_buffers_set
        rows = [
            _row(
                module, path, name, tensor, f"{kind}, not saved" if name in unsaved else kind, first
            )
            for kind, tensors in (
                ("parameter", module.named_parameters(recurse=False)),
                ("buffer", module.named_buffers(recurse=False)),
            )
            for name, tensor in tensors
        ]
        if rows:
            found[path] = rows
    if origins is not None:
        for path, rows in found.items():
            for row in rows:
                row["from"] = origins.get(f"{path}.{row['name']}" if path else row["name"], "")
    return found


def hooks(module: Any) -> list[str]:
    """What is hooked into a module, such as "before forward: 1"."""
    counts = {text: len(getattr(module, name, None) or ()) for name, text in HOOKS.items()}
    return [f"{text}: {count}" for text, count in counts.items() if count]


def _row(
    module: Any, path: str, name: str, tensor: Tensor, kind: str, first: dict[int, str]
) -> Row:
    key = f"{path}.{name}" if path else name
    tied = first.setdefault(id(tensor), key)
    row: Row = {
        "name": name,
        "kind": kind,
        "shape": shape_text(tensor),
        "dtype": str(tensor.dtype).removeprefix("torch."),
    }
    if tied != key:
        row["tied"] = tied
    dim = getattr(module, "shard_dims", {}).get(name)
    if dim is not None:
        whole = getattr(module, "padded_dims", {}).get(name, tensor.shape[dim])
        row |= {"split": dim, "whole": whole, "sizes": list(tensor.shape)}
    if not tensor.requires_grad and kind == "parameter":
        row["frozen"] = True
    return row
