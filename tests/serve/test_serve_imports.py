"""The packages of serve import each other in one direction only."""

from test_architecture import imports, modules

# Each package and module of serve may import itself and those above it in this list.
LAYERS = [
    "ipc", "settings", "logs", "tls", "telemetry", "http", "process_setup", "generation", "cache",
    "access", "http2", "grpc", "worker", "protocols", "pages", "routes", "runners", "master",
    "embedded",
]  # fmt: skip


def layer(module: str) -> int:
    return LAYERS.index(module.split(".")[2])


def test_imports_within_serve_go_up_the_list() -> None:
    within = [name for name in modules() if name.startswith("cupola.serve.")]
    wrong = [
        f"{name} imports {target}"
        for name in within
        for target in sorted(imports(name))
        if target.startswith("cupola.serve.") and layer(target) > layer(name)
    ]
    assert wrong == []


def test_workers_and_runners_do_not_import_protocols_or_the_master() -> None:
    for name in modules():
        if name.startswith(("cupola.serve.worker", "cupola.serve.runners")):
            targets = {target.split(".")[2] for target in imports(name) if target.count(".") > 1}
            assert not targets & {"protocols", "pages", "master"}, name
