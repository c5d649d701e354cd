"""HFConfig: values of a config.json or preprocessor_config.json of transformers, checked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cupola.errors import BundleError

LARGEST = 65_536  # of a size: wider models and longer sides are not meant


class HFConfig:
    """A JSON object of transformers; BundleError names the file, the key and its value."""

    def __init__(self, values: Mapping[str, Any], path: Path) -> None:
        self.values = values
        self.path = path

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key; the default where it is missing or null."""
        value = self.values.get(key)
        return default if value is None else value

    def whole(self, key: str, default: int, most: int = LARGEST, least: int = 1) -> int:
        """A whole number in least..most."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.error(f"{key} {value!r:.60}: expected a whole number in {least}..{most}")
        return value

    def wholes(self, key: str, default: list[int], most: int = LARGEST) -> list[int]:
        """A list of up to 16 whole numbers."""
        value = self.get(key, default)
        fits = isinstance(value, list | tuple) and 0 < len(value) <= 16
        if not fits or not all(type(each) is int and 0 < each <= most for each in value):
            raise self.error(f"{key} {value!r:.60}: expected whole numbers in 1..{most}")
        return list(value)

    def number(self, key: str, default: float) -> float:
        """A number, not NaN or infinite."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e9:
            raise self.error(f"{key} {value!r:.60}: expected a number")
        if value != value:
            raise self.error(f"{key}: not a number (NaN)")
        return float(value)

    def object(self, key: str) -> "HFConfig | None":
        """An object within this one, or None where it is missing or null."""
        value = self.get(key)
        if value is not None and not isinstance(value, Mapping):
            raise self.error(f"{key} {value!r:.60}: expected an object")
        return None if value is None else HFConfig(value, self.path)

    def only(self, key: str, supported: Any, default: Any = None) -> None:
        """BundleError unless the key has the one value that is supported."""
        value = self.get(key, supported if default is None else default)
        if value != supported:
            raise self.error(f"{key} {value!r:.60} is not supported, only {supported!r}")

    def error(self, problem: str) -> BundleError:
        """The error that says what is wrong in this file."""
        return BundleError(f"{self.path}: {problem}")
