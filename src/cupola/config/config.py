"""Config: a config file as data, with attributes, overrides and the origin of each value."""

import copy
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from cupola.config.dicts import ConfigDict, Origin, leaves_with_origins, plain
from cupola.config.formats import write
from cupola.config.merge import is_index, merge
from cupola.config.overrides import nested, parse_override
from cupola.errors import ConfigError, did_you_mean


class Config(MutableMapping[str, Any]):
    """The content of a config file, or any dict, with its keys as attributes.

    ``Config.load(path)`` reads .py, .json, .yaml and .toml without executing anything.
    """

    _data: ConfigDict
    filename: Path | None

    def __init__(self, data: Mapping[str, Any] | None = None, filename: Path | None = None) -> None:
        object.__setattr__(self, "_data", ConfigDict(data or {}))
        object.__setattr__(self, "filename", filename)

    @classmethod
    def load(
        cls, path: str | Path, roots: Sequence[str | Path] = (), env: Iterable[str] = ()
    ) -> "Config":
        """Reads a config file with its bases.

        Bases may be in the file's own project, in the folders `roots`, or in an installed
        package (``mmdet::detr/x.py``). ``{{$NAME:default}}`` reads the environment variables
        named in `env` only (``env=os.environ`` allows all). ConfigError names file, line and
        construct.
        """
        from cupola.config.reader import read

        path = Path(path).expanduser()
        config = cls(filename=path)
        object.__setattr__(config, "_data", read(path, [Path(root) for root in roots], env))
        return config

    def to_dict(self) -> dict[str, Any]:
        """The config as plain nested dicts, lists and tuples."""
        return self._data.to_dict()

    def override(self, options: Mapping[str, Any] | Sequence[str]) -> "Config":
        """Returns a new config with options laid over this one, which stays as it is.

        `options` maps dotted paths to values (``{"model.layers.0.dim": 8}``) or is a list of
        texts as on the command line (``["model.layers.0.dim=8"]``). A number in a path picks an
        element of a list; a dict merges unless it holds ``_delete_=True``.
        """
        if not isinstance(options, Mapping):
            options = dict(parse_override(text) for text in options)
        changed = Config(filename=self.filename)
        base = copy.deepcopy(self._data)
        object.__setattr__(changed, "_data", merge(nested(options), base, by_index=True))
        return changed

    def at(self, path: str) -> Any:
        """The value at a dotted path, plain; ConfigError with the nearest keys on a miss."""
        return plain(self._walk(path)[0])

    def origin(self, path: str) -> Origin | None:
        """The origin of the value at a dotted path, or of the nearest dict around it."""
        return self._walk(path)[1]

    def leaves(self) -> Iterator[tuple[str, Any, Origin | None]]:
        """Every value that is no dict or list, with its dotted path and its origin."""
        return leaves_with_origins(self._data)

    def _walk(self, path: str) -> tuple[Any, Origin | None]:
        value: Any = self._data
        found: Origin | None = None
        for key in path.split("."):
            if isinstance(value, ConfigDict) and key in value:
                found = value.origins.get(key, found)
                value = value[key]
            elif isinstance(value, list | tuple) and is_index(key, value):
                value = value[int(key)]
            else:
                known = list(map(str, value)) if isinstance(value, dict) else []
                hint = did_you_mean(key, known)
                raise ConfigError(f"the config has no {path!r}: there is no {key!r}{hint}")
        return value, found

    def dump(self, path: str | Path | None = None) -> str:
        """The config as readable Python, or in the format of `path`, which it is written to.

        The text of a .py, .json or .yaml file reads back as the same config, but for tuples,
        which JSON and YAML do not have.
        """
        suffix = Path(path).suffix if path is not None else ".py"
        text = write(self.to_dict(), suffix)
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._data, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._data[name] = value

    def __getitem__(self, key: str) -> Any:
        return self._data[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._data[key] = value

    def __delitem__(self, key: str) -> None:
        del self._data[key]

    def __contains__(self, key: object) -> bool:
        return key in self._data

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)

    def __eq__(self, other: object) -> bool:
        return self.to_dict() == (other.to_dict() if isinstance(other, Config) else other)

    def __reduce__(self) -> tuple[Any, ...]:
        return Config, (self.to_dict(), self.filename)

    def __repr__(self) -> str:
        return f"Config({str(self.filename)!r}, keys={list(self._data)})"
