"""A local Ray cluster that a test controls: reads a JSON command a line, writes its result.

A program of its own, since Ray's threads and warnings outlive a test.
"""

import asyncio
import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import ray
import yaml
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema
from starlette.requests import Request

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


@serve.deployment(name="Models")
class Sleeping:
    """Answers as the echo model does, after the time that the request names."""

    async def __call__(self, request: Request) -> dict[str, Any]:
        asked = await request.json()
        await asyncio.sleep(asked["parameters"]["s"])
        return {"outputs": [{"name": "y", "data": [1.0]}]}


def run_trivial(num_replicas: int) -> None:
    """Deploys an application with nothing of Cupola's."""
    serve.run(Sleeping.options(num_replicas=num_replicas).bind())


def _is_proxy(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return "ProxyActor" in "".join(process.cmdline())
    return False


def pids(deployment: str = "Models") -> list[int]:
    """The processes of a deployment's running replicas, or those of Ray's proxy."""
    if deployment == "proxy":
        return [each.pid for each in psutil.Process().children(recursive=True) if _is_proxy(each)]
    applications = _get_global_client().get_serve_details()["applications"].values()
    return [
        replica["pid"]
        for application in applications
        for replica in application["deployments"].get(deployment, {"replicas": []})["replicas"]
        if replica["state"] == "RUNNING"
    ]


COMMANDS = {each.__name__: each for each in (run, run_file, run_trivial, pids)}


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
