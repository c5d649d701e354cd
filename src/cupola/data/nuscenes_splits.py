"""nuScenes' official splits, by the names of scenes."""

from collections.abc import Sequence

from cupola.data.nuscenes_tables import Tables
from cupola.errors import DataError, did_you_mean

# Numbers of scenes. The test split is all of v1.0-test, train the rest of v1.0-trainval.
MINI_VAL = "103 916"
VAL = (
    "3 12-18 35-36 38-39 92-110 221 268-278 329-332 344-346 519-524 552-565 625-627 629-630 "
    "632-638 770-771 775 777-778 780-784 794-800 802 904-917 919-931 962-963 966-969 971-972 "
    "1059-1073"
)
# The end of a version's name -> its splits, the one that is evaluated by default first.
SPLITS = {
    "mini": ("mini_val", "mini_train"),
    "trainval": ("val", "train"),
    "test": ("test",),
}


def scenes_of(tables: Tables, split: str | None) -> list[str]:
    """The names of the scenes of a split, by default the one that the version is evaluated on.

    Of data sets with other versions (T4) all scenes. DataError for a split that the version does
    not have, or of which the tables hold no scene.
    """
    names = [record["name"] for record in tables.table("scene").values()]
    kind = tables.version.rpartition("-")[2]
    if kind not in SPLITS and split is None:
        return names
    if split is not None and split not in SPLITS.get(kind, ()):
        raise DataError(_refused(tables.version, kind, split))
    chosen = split or SPLITS[kind][0]
    listed = {"mini_val": MINI_VAL, "mini_train": MINI_VAL, "val": VAL, "train": VAL}
    numbers = _names(listed.get(chosen, ""))
    inside = chosen in ("mini_val", "val")
    found = [name for name in names if (name in numbers) == inside]
    if not found:
        raise DataError(f"{tables.root / tables.version}: has no scene of {chosen}, only {names}")
    return found


def _refused(version: str, kind: str, split: str) -> str:
    every = [name for names in SPLITS.values() for name in names]
    if split not in every:
        return f"--split: {split!r} is not one of {', '.join(every)}{did_you_mean(split, every)}"
    own: Sequence[str] = SPLITS.get(kind, ())
    has = f"has {' and '.join(own)}" if own else "has no official splits; leave --split out"
    return f"--split {split}: {version} {has}"


def _names(ranges: str) -> frozenset[str]:
    found = set()
    for each in ranges.split():
        first, _, last = each.partition("-")
        found |= {f"scene-{number:04}" for number in range(int(first), int(last or first) + 1)}
    return frozenset(found)
