"""`cupola status`: the processes of a running server, in the terminal."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(add_completion=False)


@app.command()
def status(
    pid_file: Annotated[Path | None, typer.Option(help="The master's pid file.")] = None,
    settings: Annotated[
        Path | None, typer.Option("--settings", "-c", help="The server's settings file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the generations, processes, runners and signals of a running server."""
    from cupola.errors import CupolaError
    from cupola.serve.ipc import paths
    from cupola.serve.settings.file import load_settings

    loaded = load_settings(settings)
    file = pid_file or loaded.pid_file
    if file is None:
        raise CupolaError("no pid file: give --pid-file, or --settings with `pid_file`")
    pid = paths.read_pid(file)
    home = paths.runtime_root(loaded.runtime_dir) / str(pid)
    found = paths.read_status(home)
    runners = paths.read_json(home / f"g{found.get('generation', 0)}" / "runners.json")
    found["runners"] = runners.get("runners", [])
    if as_json:
        print(json.dumps(found))
    else:
        _show(pid, found)


def _show(pid: int, found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False)
    pending = f", generation {found['pending']} is loading" if found.get("pending") else ""
    console.print(f"master {pid}, generation {found.get('generation')}{pending}")
    processes = Table("process", "role", "generation", "state", "respawns")
    for child in found.get("processes", []):
        role = f"{child['role']} {child['index']}"
        processes.add_row(
            str(child["pid"]),
            role,
            str(child["generation"]),
            child["state"],
            str(child["respawns"]),
        )
    for runner in found["runners"]:
        role = f"runner {runner['name']}:{runner['version']} {runner['index']}"
        if engine := (runner.get("optimization") or {}).get("engine"):
            role += f", {engine}"
        pids = " ".join(map(str, runner["pids"]))
        processes.add_row(
            pids, role, str(found.get("generation")), runner["state"], str(runner["respawns"])
        )
    console.print(processes)
    taken = ", ".join(f"{flag} {count}" for flag, count in found.get("signals", {}).items())
    console.print(f"signals taken: {taken or 'none'}")
