"""Cupola as an application of Ray Serve; needs `pip install cupola[ray]`.

    serve.run(cupola.ray.app(bundle="detr-digits", num_replicas=2))

`app` makes an application in Python, and `build` is what a config file of `serve deploy` imports.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cupola.ray.application import app, build

__all__ = ["app", "build"]


def __getattr__(name: str) -> Any:
    """Imports ray when one of the names is used."""
    if name not in __all__:
        raise AttributeError(f"module 'cupola.ray' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module("cupola.ray.application"), name)
