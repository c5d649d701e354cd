"""Modules that are imported on first use, so that collecting the tests stays fast."""

from importlib import import_module
from typing import Any


class LazyModule:
    """`openai = LazyModule("openai")` is used as the module is."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):  # pytest asks every object of a test file for some
            raise AttributeError(attribute)
        return getattr(import_module(self._name), attribute)
