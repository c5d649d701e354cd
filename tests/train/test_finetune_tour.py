"""The tour "Fine-tune DETR on your own COCO folder" runs as it stands, and the model improves."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

TOURS = ("finetune.md", "finetune.zh-CN.md")


def blocks(name: str) -> list[tuple[str, str]]:
    """(language, text) of the code blocks of a tour."""
    text = Path("docs/tour", name).read_text(encoding="utf-8")
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.M | re.S)


def files(name: str) -> dict[str, str]:
    """The Python blocks by the name in their first line."""
    found = [text for language, text in blocks(name) if language == "python"]
    return {text.splitlines()[0].removeprefix("# "): text for text in found}


def commands(name: str) -> list[str]:
    lines = [line for language, text in blocks(name) if not language for line in text.splitlines()]
    return [line for line in lines if line.startswith(("cupola ", "python "))]


def test_both_languages_show_the_same_commands() -> None:
    english, chinese = (commands(name) for name in TOURS)
    assert english == chinese and len(english) == 8
    bare = [
        {key: re.sub(r"  #.*", "", text) for key, text in files(name).items()} for name in TOURS
    ]
    assert bare[0] == bare[1] and set(bare[0]) == {"make_parity.py", "parity.py"}


def run(line: str, folder: Path) -> str:
    program, *arguments = shlex.split(line)
    start = [sys.executable, *(["-m", "cupola"] if program == "cupola" else [])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(str(Path(each).resolve()) for each in ("src",))
    done = subprocess.run(
        [*start, *arguments], cwd=folder, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, f"{line}\n{done.stderr}"
    return done.stdout + done.stderr


def curve(work_dir: Path) -> list[float]:
    lines = map(json.loads, (work_dir / "log.jsonl").read_text().splitlines())
    return [entry["AP50"] for entry in lines if entry["kind"] == "val"]


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a minute of computation; longer where others compute too
def test_the_tour_runs_and_the_detector_improves(tmp_path: Path) -> None:
    for name, text in files(TOURS[0]).items():
        (tmp_path / name).write_text(text)
    said = {line: run(line, tmp_path) for line in commands(TOURS[0])}
    trained = " ".join(said["cupola train parity.py"].split())
    assert "loaded 179 of 181 tensors" in trained
    assert "newly initialized: bbox_head.fc_cls.weight (11, 128) -> (3, 128)" in trained
    fine_tuned = curve(tmp_path / "work_dirs/parity")
    assert fine_tuned[-1] > 0.75
    (evaluated,) = [text for line, text in said.items() if line.startswith("cupola evaluate")]
    assert float(evaluated.split("AP50")[1].split()[0]) == pytest.approx(max(fine_tuned), abs=0.01)
    assert (tmp_path / "drawn.png").is_file()
    run("cupola train parity.py --set load_from=None --work-dir random", tmp_path)
    assert curve(tmp_path / "random")[-1] < fine_tuned[0] / 4
