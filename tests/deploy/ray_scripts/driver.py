"""A local Ray cluster that a test controls: reads a JSON command a line, writes its result.

A program of its own, since Ray's threads and warnings outlive a test.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import ray
import yaml
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema

import cupola.ray
from cupola.errors import CupolaError


def start(port: int) -> None:
    ray.init(
        num_cpus=8, include_dashboard=False, configure_logging=False, log_to_driver=False,
        object_store_memory=100 * 2**20,
    )  # fmt: skip
    serve.start(http_options={"host": "127.0.0.1", "port": port})


def run(route_prefix: str = "/", **arguments: Any) -> None:
    """Deploys, or updates what is deployed; returns when it is complete."""
    serve.run(cupola.ray.app(**arguments), route_prefix=route_prefix)


def run_file(path: str) -> None:
    """What `serve deploy` does with a config file, without the dashboard that takes it."""
    config = ServeDeploySchema.model_validate(yaml.safe_load(Path(path).read_text()))
    _get_global_client().deploy_apps(config, _blocking=True)


def pids(deployment: str = "Models") -> list[int]:
    """The processes of a deployment's running replicas."""
    applications = _get_global_client().get_serve_details()["applications"].values()
    return [
        replica["pid"]
        for application in applications
        for replica in application["deployments"].get(deployment, {"replicas": []})["replicas"]
        if replica["state"] == "RUNNING"
    ]


COMMANDS = {each.__name__: each for each in (run, run_file, pids)}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what Ray prints
    start(int(sys.argv[1]))
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        name, arguments = json.loads(line)
        try:
            answer = {"result": COMMANDS[name](**arguments)}
        except (CupolaError, AssertionError, RuntimeError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
