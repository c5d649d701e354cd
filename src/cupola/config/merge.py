"""Merging of a config file into its bases, by the rules of mmengine's config inheritance."""

from collections.abc import Mapping, Sequence
from typing import Any

from cupola.config.dicts import ConfigDict, wrap
from cupola.errors import ConfigError, did_you_mean

DELETE = "_delete_"


def merge(child: Mapping[Any, Any], base: Any, by_index: bool = False, path: str = "") -> Any:
    """`child` laid over `base`: dicts merge, everything else replaces; neither is changed.

    The dicts of both are ConfigDicts, but for those of overrides (`by_index`).

    A child dict with `_delete_=True` replaces the base's dict. With `by_index`, keys that are
    numbers pick elements of a list in the base. ConfigError if a dict would merge into a value
    that is not one.
    """
    merged = base.copy()
    origins = getattr(merged, "origins", {})
    put = list.__setitem__ if isinstance(merged, list) else dict.__setitem__
    for key, value in child.items():
        where = f"{path}.{key}" if path else str(key)
        slot = _index(key, merged, where) if by_index and isinstance(merged, list) else key
        present = isinstance(merged, list) or slot in merged
        if isinstance(value, dict) and present and not value.get(DELETE, False):
            put(merged, slot, _merge_dict(value, merged[slot], by_index, where))
        elif isinstance(value, dict) and present:
            put(merged, slot, ConfigDict(_without_delete(value)))
        else:
            put(merged, slot, wrap(value) if by_index else value)
            origins.pop(key, None)
        if key in getattr(child, "origins", ()):
            origins[key] = child.origins[key]  # type: ignore[attr-defined]
    return merged


def _merge_dict(value: dict[Any, Any], old: Any, by_index: bool, where: str) -> Any:
    if not isinstance(old, (dict, list) if by_index else dict):
        raise ConfigError(
            f"{where}: a dict cannot be merged into {old!r:.60} of the base; "
            f"set {DELETE}=True in the dict to replace it"
        )
    return merge(_without_delete(value), old, by_index, where)


def _without_delete(value: dict[Any, Any]) -> dict[Any, Any]:
    if DELETE not in value:
        return value
    kept = ConfigDict(value)
    del kept[DELETE]
    return kept


def is_index(key: Any, items: Sequence[Any]) -> bool:
    """Whether a key is, or spells in digits, an index of `items`."""
    text = str(key)
    return text.isdecimal() and len(text) < 20 and int(text) < len(items)


def _index(key: Any, items: list[Any], where: str) -> int:
    if not str(key).isdecimal():
        known = [str(i) for i in range(len(items))]
        raise ConfigError(f"{where}: a list needs a number here{did_you_mean(str(key), known)}")
    if not is_index(key, items):
        raise ConfigError(f"{where}: the list has only {len(items)} elements")
    return int(key)


def merge_in_place(base: ConfigDict, child: Mapping[Any, Any]) -> None:
    """The `.merge()` of the lazy config style: as `merge`, but any value may replace any other."""
    if child.get(DELETE, False):
        base.clear()
    for key, value in child.items():
        old = base.get(key)
        if key == DELETE:
            continue
        if isinstance(value, dict) and isinstance(old, ConfigDict):
            merge_in_place(old, value)
        else:
            base[key] = _without_delete(value) if isinstance(value, dict) else value
    base.origins.update(getattr(child, "origins", {}))
