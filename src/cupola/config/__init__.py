"""Config files as data: read, merged, overridden and shown, and never executed."""

from cupola.config.config import Config
from cupola.config.dicts import ConfigDict, Origin
from cupola.config.diff import Change, diff
from cupola.config.formats import CONFIG_SUFFIXES

__all__ = ["CONFIG_SUFFIXES", "Change", "Config", "ConfigDict", "Origin", "diff"]
