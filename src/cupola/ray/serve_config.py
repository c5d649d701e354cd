"""The config file of an application for `serve deploy`; writing it needs no ray."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cupola.errors import ConfigError

IMPORT_PATH = "cupola.ray:build"
HEAD = """\
# serve deploy FILE
# Written by `cupola ray serve-config`. The files of the models must be on every node.
"""


@dataclass(frozen=True)
class Scaling:
    """How many replicas there are: a number, or Ray's autoscaling between two numbers."""

    num_replicas: int | None = None
    min_replicas: int | None = None
    max_replicas: int | None = None
    target_ongoing_requests: float | None = None

    def options(self) -> dict[str, Any]:
        """The options of the deployment. ConfigError if both ways are mixed."""
        scaled = {
            "min_replicas": self.min_replicas,
            "max_replicas": self.max_replicas,
            "target_ongoing_requests": self.target_ongoing_requests,
        }
        given = {name: value for name, value in scaled.items() if value is not None}
        if not given:
            return {"num_replicas": self.num_replicas or 1}
        if self.num_replicas is not None:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise ConfigError(f"--num-replicas is a fixed number; it excludes {names}")
        if self.max_replicas is None:
            raise ConfigError("autoscaling needs --max-replicas")
        if (self.min_replicas or 0) > self.max_replicas:
            raise ConfigError(
                f"--min-replicas {self.min_replicas} is more than --max-replicas "
                f"{self.max_replicas}"
            )
        return {"autoscaling_config": given}


@dataclass(frozen=True)
class ApplicationFile:
    """The content of the file. `arguments` are those of `cupola.ray.app`."""

    arguments: Mapping[str, Any]
    scaling: Scaling = field(default_factory=Scaling)
    name: str = "cupola"
    route_prefix: str = "/"
    host: str = "0.0.0.0"
    port: int = 8000

    def text(self) -> str:
        """The YAML. The number of replicas is Ray's option: changing it restarts none of them."""
        application = {
            "name": self.name,
            "route_prefix": self.route_prefix,
            "import_path": IMPORT_PATH,
            "args": {key: value for key, value in self.arguments.items() if value},
            "deployments": [{"name": "Models", **self.scaling.options()}],
        }
        content = {
            "proxy_location": "EveryNode",
            "http_options": {"host": self.host, "port": self.port},
            "applications": [application],
        }
        return HEAD + yaml.safe_dump(content, sort_keys=False)


def absolute(models: Sequence[str]) -> list[str]:
    """The models, with folders of this machine by their absolute paths."""
    return [str(Path(each).resolve()) if Path(each).is_dir() else each for each in models]
