"""Bundles: a model with all that it needs to answer, in one folder.

`write_bundle` is imported on first use, so that reading bundles stays free of torch.
"""

from typing import TYPE_CHECKING, Any

from cupola.bundles.bundle import Bundle, shipped_names

if TYPE_CHECKING:
    from cupola.bundles.writing import write_bundle

__all__ = ["Bundle", "shipped_names", "write_bundle"]


def __getattr__(name: str) -> Any:
    if name == "write_bundle":
        from cupola.bundles.writing import write_bundle

        return write_bundle
    raise AttributeError(f"module 'cupola.bundles' has no attribute {name!r}")
