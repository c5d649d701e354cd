"""Means and deviations of channels: found by name or by their place in published files."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cupola.errors import ConfigError
from cupola.structures.variables import FOURCASTNET_CHANNELS, channel_name


def channel_statistics(
    values: Any, channels: Sequence[str], what: str, listed: Sequence[str] | None = None
) -> list[float]:
    """One number for each channel.

    values: one number for all; {channel: number}; or numbers of any shape ([1, C, 1, 1]), which
    belong to `listed` if there are as many, else to `channels` if there are as many, else to
    FourCastNet's channels, as in its global_means.npy of 21 numbers. what: for errors, "means".
    Raises ConfigError where the numbers cannot be assigned, or are not finite.
    """
    if isinstance(values, Mapping):
        return _finite(_by_name(values, channels, what), channels, what)
    if isinstance(values, int | float):
        return _finite([float(values)] * len(channels), channels, what)
    try:
        flat = np.asarray(values, np.float64).reshape(-1)
    except (TypeError, ValueError):
        raise ConfigError(f"{what}: expected numbers, got {values!r:.80}") from None
    names = published_names(len(flat), channels, listed)
    wanted = [channel_name(name) for name in channels]
    missing = [] if names is None else [n for n in wanted if n not in names]
    if names is None or missing:
        of = f", and {missing[0]!r} is not one of them" if missing else ""
        raise ConfigError(
            f"{what}: {len(flat)} numbers for {len(channels)} channels ({', '.join(channels)}){of};"
            f" give one for each in this order, or {{channel: number}}"
        )
    return _finite([float(flat[names.index(name)]) for name in wanted], channels, what)


def published_names(
    count: int, channels: Sequence[str], listed: Sequence[str] | None = None
) -> list[str] | None:
    """The channels that `count` entries of a file without names belong to; None if unknown."""
    for names in (listed, channels):
        if names is not None and len(names) == count:
            return [channel_name(name) for name in names]
    if count >= len(FOURCASTNET_CHANNELS):
        extra = range(len(FOURCASTNET_CHANNELS), count)
        return [*FOURCASTNET_CHANNELS, *(f"channel{i}" for i in extra)]
    return None


def _by_name(values: Mapping[str, Any], channels: Sequence[str], what: str) -> list[float]:
    named = {channel_name(str(name)): value for name, value in values.items()}
    missing = [name for name in channels if channel_name(name) not in named]
    if missing:
        raise ConfigError(f"{what}: none for {', '.join(missing)}; they name {', '.join(named)}")
    return [float(named[channel_name(name)]) for name in channels]


def _finite(values: list[float], channels: Sequence[str], what: str) -> list[float]:
    for name, value in zip(channels, values, strict=True):
        if not np.isfinite(value) or (what == "stds" and value <= 0):
            raise ConfigError(f"{what}: {value} for channel {name}")
    return values
