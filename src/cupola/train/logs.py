"""Logs of a run: one JSON line per report, TensorBoard curves, a progress bar."""

import json
import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

LOG = "log.jsonl"


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The entries of a run's log, without an incomplete last line."""
    path = folder / LOG
    entries = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return entries


def forget_after(folder: Path, step: int) -> None:
    """Drops entries after `step`, which a resumed run writes again."""
    kept = [entry for entry in read_log(folder) if entry["step"] <= step]
    partial = folder / f".{LOG}.{os.getpid()}"
    partial.write_text("".join(json.dumps(entry) + "\n" for entry in kept))
    partial.replace(folder / LOG)


class RunLog:
    """Writes to `folder`/log.jsonl, to TensorBoard if it is installed, and to the terminal."""

    def __init__(self, folder: Path, max_steps: int, step: int, quiet: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / LOG).open("a", buffering=1)
        self._tensorboard: Any = None
        if find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self._tensorboard = SummaryWriter(str(folder / "tensorboard"), purge_step=step)
        self._console = Console(stderr=True, quiet=quiet)
        self._bar = Progress(
            TextColumn("step {task.completed}/{task.total}"),
            BarColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            disable=quiet or not sys.stderr.isatty(),
        )
        self._task: TaskID = self._bar.add_task("train", total=max_steps, completed=step, note="")
        self._bar.start()

    def advance(self, step: int) -> None:
        """Moves the progress bar to `step`."""
        self._bar.update(self._task, completed=step)

    def report(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """Records `values` ("train" or "val") at `step`."""
        # nine digits reproduce a float32 exactly
        rounded = {name: float(f"{value:.9g}") for name, value in values.items()}
        self._file.write(json.dumps({"step": step, "kind": kind, **rounded}) + "\n")
        if self._tensorboard is not None:
            for name, value in rounded.items():
                self._tensorboard.add_scalar(f"{kind}/{name}", value, step)
        shown = {n: v for n, v in rounded.items() if kind == "val" or n in ("loss", "lr", "time")}
        note = "  ".join(f"{name} {value:.4g}" for name, value in shown.items())
        self._bar.update(self._task, note=note)
        if self._bar.disable or kind == "val":
            self._console.print(f"{kind} {step}: {note}", highlight=False)

    def say(self, text: str) -> None:
        """Prints one line above the progress bar."""
        self._console.print(text, highlight=False)

    def close(self) -> None:
        """Flushes and closes everything."""
        self._bar.stop()
        self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
