"""Plug-ins: packages that register classes on import. A config cannot load one."""

from importlib import import_module
from importlib.metadata import entry_points

from cupola.errors import BuildError

GROUP = "cupola.plugins"
_loaded: set[str] = set()


def load_plugins(names: list[str] | tuple[str, ...]) -> None:
    """Imports plug-ins by module name or by the name of a `cupola.plugins` entry point.

    Each is imported once. BuildError if one cannot be imported.
    """
    known = {point.name: point.value for point in entry_points(group=GROUP)} if names else {}
    for name in names:
        _load(name, known.get(name, name))


def load_entry_points() -> None:
    """Imports the `cupola.plugins` entry points of all installed packages once."""
    if GROUP not in _loaded:
        _loaded.add(GROUP)
        for point in entry_points(group=GROUP):
            _load(point.name, point.value)


def _load(name: str, target: str) -> None:
    module = target.partition(":")[0]
    if module in _loaded:
        return
    _loaded.add(module)
    try:
        import_module(module)
    except Exception as error:
        _loaded.discard(module)
        raise BuildError(f"the plug-in {name!r} cannot be imported: {error!r}") from error
