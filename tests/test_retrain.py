"""Each shipped model has a recipe that trains it again."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from cupola.bundles.bundle import SHIPPED
from cupola.config import Config
from cupola.train.recipe import find_config

SCRIPT = Path(__file__).parent.parent / "scripts/retrain.py"
RECIPES = runpy.run_path(str(SCRIPT))["RECIPES"]


def test_every_shipped_bundle_has_a_recipe() -> None:
    assert sorted(RECIPES) == sorted(path.parent.name for path in SHIPPED.glob("*/config.json"))


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_ends_with_a_config_that_writes_the_bundle(name: str) -> None:
    configs = [find_config(command[1]) for command in RECIPES[name] if command[0] == "train"]
    assert Config.load(configs[-1]).to_dict().get("bundle")
    card = (SHIPPED / name / "card.md").read_text().replace("_", "-")
    assert all(path.stem.replace("_", "-") in card for path in configs) or name == "bloom-tiny"


@pytest.mark.slow
def test_the_smallest_recipe_runs(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parent.parent / "src")}
    command = [sys.executable, str(SCRIPT), "afno-navier-stokes", "--steps", "2"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=280)
    (card,) = tmp_path.glob("work_dirs/*/**/card.md")
    assert "relative_l2" in card.read_text()
