"""docs/migrate.md names commands, options and symbols that exist."""

import re
from pathlib import Path

import typer

from cupola.cli.main import app

PAGE = Path("docs/migrate.md").read_text(encoding="utf-8")


def test_every_option_on_the_page_exists() -> None:
    group = typer.main.get_command(app)
    context = typer.Context(group)
    found = re.findall(r"`(?:torchrun [^`]*-m )?cupola (\w+)([^`]*)`", PAGE)
    assert len(found) > 12
    for name, rest in found:
        command = group.get_command(context, name)  # type: ignore[attr-defined]
        assert command is not None, name
        options = {text for each in getattr(command, "params", ()) for text in each.opts}
        nested = set(getattr(command, "commands", ()))
        assert set(re.findall(r"--[a-z-]+", rest)) <= options, (name, rest)
        if nested:
            assert set(re.findall(r"^ (\w+)", rest)) <= nested


def test_the_import_on_the_page_works() -> None:
    (line,) = re.findall(r"^from cupola.compat.mmdet import .*$", PAGE, flags=re.M)
    names: dict[str, object] = {}
    exec(line, names)
    assert {"DetInferencer", "inference_detector", "init_detector"} <= set(names)
