"""What training tools add to a state dict: wrappers' prefixes, and copies beside the weights."""

from collections.abc import Iterator, Mapping

from torch import Tensor

# DataParallel and DDP; Lightning and trl; torch.compile; DETRsegm, which holds a whole DETR.
PREFIXES = ("module.", "model.", "_orig_mod.", "detr.", "net.", "network.")
MASK_HEADS = ("bbox_attention.", "mask_head.")  # DETRsegm's own parts

State = Mapping[str, Tensor]


def without_averages(state: State) -> tuple[dict[str, Tensor], list[str]]:
    """The weights without the `ema_...` buffers of mmcv's and mmengine's EMA hooks, and notes."""
    averages = {"ema_" + key.replace(".", "_") for key in state} & state.keys()
    if not averages:
        return dict(state), []
    kept = {key: value for key, value in state.items() if key not in averages}
    return kept, [f"{len(averages)} moving averages (ema_...) next to the weights were not used"]


def without_prefixes(state: State) -> Iterator[tuple[dict[str, Tensor], list[str]]]:
    """The state dict as it is, then with each prefix that all its keys share removed, and notes."""
    current = dict(state)
    notes: list[str] = []
    yield current, list(notes)
    while prefix := next((each for each in PREFIXES if _shared(each, current)), None):
        left = [key for key in current if not key.startswith(prefix)]
        current = {
            key.removeprefix(prefix): value for key, value in current.items() if key not in left
        }
        notes.append(f"the prefix {prefix!r} of every key was removed")
        if left:
            notes.append(f"{len(left)} entries of the mask head (DETRsegm) were not used")
        yield current, list(notes)


def _shared(prefix: str, state: State) -> bool:
    """Whether all keys begin with the prefix, but for the mask heads beside a `detr.`"""
    others = MASK_HEADS if prefix == "detr." else ()
    return (
        bool(state)
        and any(key.startswith(prefix) for key in state)
        and all(key.startswith((prefix, *others)) for key in state)
    )
