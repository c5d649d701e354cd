"""`cupola ray`: serves on a Ray cluster."""

from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(add_completion=False, no_args_is_help=True)


@app.callback()
def ray() -> None:
    """Serve on a Ray cluster; in Python: serve.run(cupola.ray.app(...))."""


@app.command("serve-config")
def serve_config(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="MODEL...", help="Bundle names, folders or hf:// ids."),
    ] = None,
    model_dir: Annotated[
        Path | None, typer.Option(help="Folder of models, instead of naming them.")
    ] = None,
    num_replicas: Annotated[
        int | None, typer.Option(min=1, help="Processes that each hold the models [1].")
    ] = None,
    min_replicas: Annotated[int | None, typer.Option(min=0, help="Autoscaling: the least.")] = None,
    max_replicas: Annotated[int | None, typer.Option(min=1, help="Autoscaling: the most.")] = None,
    target_ongoing_requests: Annotated[
        float | None, typer.Option(min=0.01, help="Autoscaling: requests of a replica at once.")
    ] = None,
    multiplexed: Annotated[
        int | None, typer.Option(min=1, help="A replica holds at most so many models at a time.")
    ] = None,
    num_cpus: Annotated[float, typer.Option(min=0.01, help="CPUs of a replica.")] = 1,
    num_gpus: Annotated[float, typer.Option(min=0, help="GPUs of a replica.")] = 0,
    max_ongoing_requests: Annotated[
        int | None, typer.Option(min=1, help="Requests that Ray sends to a replica at once [64].")
    ] = None,
    plugin: Annotated[
        list[str] | None, typer.Option(help="Module to import in replicas; repeatable.")
    ] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="Setting of the server, as NAME=VALUE.")
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the application.")] = "cupola",
    route_prefix: Annotated[str, typer.Option(help="Start of its paths.")] = "/",
    host: Annotated[str, typer.Option(help="Address of Ray's proxies.")] = "0.0.0.0",
    port: Annotated[int, typer.Option(help="Port of Ray's proxies.")] = 8000,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write [the terminal].")
    ] = None,
) -> None:
    """Write the config file of an application for `serve deploy`."""
    from cupola.ray.serve_config import ApplicationFile, Scaling, absolute
    from cupola.ray.settings import server_settings
    from cupola.serve.settings.flags import collect_flags

    settings = collect_flags(plugins=plugin, assignments=assignments or [])
    actor: dict[str, Any] = {"num_cpus": num_cpus, **({"num_gpus": num_gpus} if num_gpus else {})}
    bundles = absolute(models or [])
    folder = str(model_dir.resolve()) if model_dir else None
    server_settings(bundles, folder, settings, actor)  # finds errors before a cluster does
    arguments = {
        "bundle": bundles,
        "model_dir": folder,
        "multiplexed_models": multiplexed,
        "ray_actor_options": actor,
        "max_ongoing_requests": max_ongoing_requests,
        "settings": settings,
    }
    scaling = Scaling(num_replicas, min_replicas, max_replicas, target_ongoing_requests)
    text = ApplicationFile(arguments, scaling, name, route_prefix, host, port).text()
    if out is None:
        print(text, end="")
    else:
        out.write_text(text)
