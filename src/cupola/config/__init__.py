"""Config files as data: read, merged, overridden and shown, and never executed."""

from cupola.config.config import Config
from cupola.config.dicts import ConfigDict, Origin

__all__ = ["Config", "ConfigDict", "Origin"]
