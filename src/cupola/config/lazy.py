"""LazyName: the dotted name that an import in a config refers to. It is never imported."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LazyName:
    """The dotted path of a class or module, as `from mmdet.models import DETR` would bind it."""

    path: str

    def attribute(self, name: str) -> "LazyName":
        """The name of an attribute of this one."""
        return LazyName(f"{self.path}.{name}")

    def __str__(self) -> str:
        return self.path


def names_as_text(value: object) -> object:
    """Copies a tree of dicts, lists and tuples, with every LazyName turned into its path."""
    if isinstance(value, LazyName):
        return value.path
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, LazyName | dict | list | tuple):
                dict.__setitem__(value, key, names_as_text(item))
        return value
    if isinstance(value, list | tuple):
        return type(value)(names_as_text(item) for item in value)
    return value
