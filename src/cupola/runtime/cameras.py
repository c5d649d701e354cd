"""The cameras of a multi-camera model: how many, their names, and their order."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cupola.errors import InputError

Array = NDArray[np.float64]

# In the order in which the published models of nuScenes and Waymo take them.
NUSCENES = (
    *("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_FRONT_LEFT"),
    *("CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT"),
)
WAYMO = (
    *("CAM_FRONT", "CAM_FRONT_LEFT", "CAM_FRONT_RIGHT"),
    *("CAM_SIDE_LEFT", "CAM_SIDE_RIGHT"),
)
KEYS = ("num_cams", "num_views")


class Cameras(NamedTuple):
    """Number of cameras; names in the model's order, empty where they are not known."""

    number: int
    names: tuple[str, ...]


def cameras_of(
    cfg: Mapping[str, Any], model: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]
) -> Cameras:
    """The cameras of a published config.

    Their number is `num_cams` in the model, else `num_views` in the test pipeline, else either at
    the top of the config or in `data_aug_conf`, else the data set's.
    """
    augmentation = cfg.get("data_aug_conf") or cfg.get("ida_aug_conf") or {}
    waymo = any("Waymo" in kind for kind in _dataset_types(cfg))
    found = [
        *list(_values(model, "num_cams"))[-1:],  # the attention's, below the transformer's
        *(step["num_views"] for step in steps if step.get("num_views")),
        *(cfg[key] for key in KEYS if isinstance(cfg.get(key), int)),
        *(augmentation[key] for key in ("Ncams",) if key in augmentation),
    ]
    names = tuple(map(str, augmentation.get("cams") or ()))
    count = int(found[0]) if found else len(names) or (len(WAYMO) if waymo else len(NUSCENES))
    known = (names, WAYMO, NUSCENES) if waymo else (names, NUSCENES, WAYMO)
    usual = (each for each in known if len(each) == count)
    return Cameras(count, next(usual, ()))


def _values(cfg: Any, key: str) -> Iterator[int]:
    if isinstance(cfg, Mapping):
        if isinstance(cfg.get(key), int):
            yield cfg[key]
        for value in cfg.values():
            yield from _values(value, key)
    elif isinstance(cfg, list | tuple):
        for value in cfg:
            yield from _values(value, key)


def _dataset_types(cfg: Mapping[str, Any]) -> Iterator[str]:
    """The types of the data sets, which may be wrapped."""
    data = cfg.get("data")
    data = data if isinstance(data, Mapping) else {}
    found: list[Any] = [cfg.get("dataset_type"), data.get("test"), data.get("val")]
    found += [(cfg.get(f"{split}_dataloader") or {}).get("dataset") for split in ("test", "val")]
    while found:
        each = found.pop()
        if isinstance(each, str):
            yield each
        elif isinstance(each, Mapping):
            found += [each.get("type"), each.get("dataset")]


def order_of(names: Sequence[str], wanted: Sequence[str], count: int) -> list[int]:
    """Where each of the model's cameras is among those of a sample.

    A sample without names is in the model's order, and so is one of other names where the model
    has none. InputError for names that are not the model's.
    """
    usual = tuple(wanted) or (NUSCENES if count == len(NUSCENES) else ())
    if len(set(names)) < len(names):
        raise InputError(f"cameras: one name appears twice in {', '.join(map(str, names))}")
    foreign = not wanted and not set(names) & set(usual)
    if not names or not usual or foreign:
        return list(range(count))
    if sorted(names) != sorted(usual):
        raise InputError(
            f"cameras: expected {', '.join(usual)}, got {', '.join(map(str, names))}; name and "
            "order them as the model's"
        )
    return [list(names).index(name) for name in usual]
