"""Which files hold a bundle's weights, for those that copy them. No torch."""

from pathlib import Path

from cupola.errors import CheckpointError
from cupola.files.adapters import is_adapter
from cupola.files.weights import weight_files

PARTS = ("model-rank*.safetensors", "layer_*")  # weights that ranks hold; the first that are there


def copied_files(weights: Path) -> list[Path] | None:
    """The files without which the weights in a file or folder cannot be loaded.

    None if they are put together from several folders: an adapter and its base, Megatron's ranks.
    Where it is not clear which files are meant these are all, and loading them says what is wrong.
    """
    if not weights.is_dir():
        return [weights]
    parts = next(filter(None, (sorted(weights.glob(kind)) for kind in PARTS)), [])
    try:
        tensors = parts or weight_files(weights)
    except CheckpointError:
        tensors = sorted(weights.glob("*.safetensors")) or sorted(weights.glob("*.bin"))
    if is_adapter(weights) or not tensors:
        return None
    return [*tensors, *weights.glob("*.json"), *weights.glob("mp_rank_00_*.pt")]
