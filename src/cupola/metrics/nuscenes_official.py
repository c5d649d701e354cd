"""Official nuScenes scores from nuscenes-devkit, run in a separate environment."""

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from cupola.errors import DataError
from cupola.metrics.nuscenes_scores import Box

RUNNER = Path(__file__).with_name("nuscenes_runner.py")
VARIABLE = "CUPOLA_NUSCENES_PYTHON"
HOW = (
    "the official scores need nuscenes-devkit in a separate environment (it needs numpy < 2): "
    "`python -m venv nuscenes && nuscenes/bin/pip install nuscenes-devkit`, then set "
    f"{VARIABLE}=nuscenes/bin/python"
)


def official_scores(
    truth: Sequence[Box],
    found: Sequence[Box],
    names: Sequence[str],
    python: str | None = None,
    timeout: float = 3600.0,
) -> dict[str, float]:
    """The devkit's mAP, NDS, mean errors and AP per class, named as in nuscenes_scores.

    `python` is the interpreter of the devkit's environment, by default the variable
    CUPOLA_NUSCENES_PYTHON. Raises DataError if it is missing or fails.
    """
    interpreter = python or os.environ.get(VARIABLE)
    if not interpreter:
        raise DataError(HOW)
    with TemporaryDirectory() as folder:
        source, target = Path(folder, "boxes.json"), Path(folder, "scores.json")
        content = {
            "names": list(names),
            "truth": [asdict(box) for box in truth],
            "found": [asdict(box) for box in found],
        }
        source.write_text(json.dumps(content))
        # -I: the runner's own folder must not shadow the devkit's package
        command = [interpreter, "-I", str(RUNNER), str(source), str(target)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
        except OSError as error:
            raise DataError(f"{interpreter} cannot be started ({error}); {HOW}") from None
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise DataError(f"nuscenes-devkit failed: {last}; {HOW}")
        scores: dict[str, float] = json.loads(target.read_text())
    return scores
