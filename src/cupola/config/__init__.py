"""Config files as data: read, merged, overridden and shown, and never executed."""

from cupola.config.config import Config
from cupola.config.dicts import ConfigDict, Origin
from cupola.config.diff import Change, diff

__all__ = ["Change", "Config", "ConfigDict", "Origin", "diff"]
