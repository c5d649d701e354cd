"""sixteen_bit_type: whether a checkpoint's matrices are kept in sixteen bits."""

from pathlib import Path

from safetensors import SafetensorError, safe_open

from cupola.weights.reading import check_header

TYPES = {"F16": "float16", "BF16": "bfloat16"}


def sixteen_bit_type(path: Path) -> str | None:
    """ "float16" or "bfloat16", if all matrices of a safetensors file or folder have that type."""
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    found = set()
    for file in files:
        if file.suffix != ".safetensors":
            return None
        check_header(file)
        try:
            with safe_open(file, framework="pt") as opened:
                slices = [opened.get_slice(key) for key in opened.keys()]  # noqa: SIM118
                found |= {one.get_dtype() for one in slices if len(one.get_shape()) > 1}
        except (SafetensorError, OSError):
            return None  # reading the weights says what is wrong
    return TYPES.get(found.pop()) if len(found) == 1 else None
