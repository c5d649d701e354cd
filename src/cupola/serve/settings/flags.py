"""Turns the command line of `cupola serve` and `cupola check` into settings."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from cupola.errors import ConfigError


def collect_flags(
    bundles: Sequence[str] | None = None,
    host: str | None = None,
    port: int | None = None,
    workers: int | None = None,
    pid_file: Path | None = None,
    plugins: Sequence[str] | None = None,
    daemon: bool = False,
    offline: bool = False,
    model_dir: Path | None = None,
    model_name: str | None = None,
    assignments: Sequence[str] = (),
) -> dict[str, Any]:
    """Only the given flags, so that the others do not override the file and the environment."""
    found: dict[str, Any] = {}
    if host is not None or port is not None:
        found["listen"] = [f"{host or '127.0.0.1'}:{8000 if port is None else port}"]
    given = {
        "models": list(bundles or []),
        "workers": workers,
        "pid_file": pid_file,
        "plugins": list(plugins or []),
        "daemon": daemon,
        "offline": offline,
        "model_dir": model_dir,
        "model_name": model_name,
    }
    found |= {name: value for name, value in given.items() if value}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set expects NAME=VALUE, got {assignment!r}")
        found[name.strip()] = yaml.safe_load(value)
    return found
