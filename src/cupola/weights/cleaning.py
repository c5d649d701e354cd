"""What training tools add to a state dict: wrappers' prefixes, and copies beside the weights."""

from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor

# DataParallel and DDP; Lightning and trl; torch.compile; DETRsegm, which holds a whole DETR.
PREFIXES = ("module.", "model.", "_orig_mod.", "detr.", "net.", "network.")
MASK_HEADS = ("bbox_attention.", "mask_head.")  # DETRsegm's own parts

WRAPPED = ("module.", "_orig_mod.", "pretrained_model.")  # around a language model
VALUE_HEADS = ("v_head.", "value_head.", "score.")  # of trl and of reward models

# Numbers 0, 1, ... that transformers stored in checkpoints of BERT until its version 4.31.
POSITIONS = ".embeddings.position_ids"

State = Mapping[str, Tensor]


def without_training_keys(keys: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Names of a language model's weights without wrappers' prefixes -> their keys; and notes.

    The heads that trl and reward models add are left out.
    """
    found, notes = {key: key for key in keys}, []
    heads = {name for name in found if _unwrapped(name).startswith(VALUE_HEADS)}
    if heads and len(heads) < len(found):
        found = {name: key for name, key in found.items() if name not in heads}
        notes.append(f"{len(heads)} entries of a value head (trl) were not used")
    while prefix := next((p for p in WRAPPED if found and all(k.startswith(p) for k in found)), ""):
        found = {name.removeprefix(prefix): key for name, key in found.items()}
        notes.append(f"the prefix {prefix!r} of every key was removed")
    return found, notes


def _unwrapped(name: str) -> str:
    while prefix := next((p for p in WRAPPED if name.startswith(p)), ""):
        name = name.removeprefix(prefix)
    return name


def without_positions(state: State, own: State) -> State:
    """The weights without the position numbers of a language model, which are no parameters."""
    return {k: v for k, v in state.items() if k in own or not k.endswith(POSITIONS)}


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
