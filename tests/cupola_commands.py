"""Runs `cupola COMMAND ...` in forks of one process that has imported torch already.

A new process needs three seconds for that. Whatever a command reads of its environment, its
working directory, standard output, standard error and exit code are its own.
"""

import atexit
import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any


def run_cupola(
    *arguments: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """The finished command. env: variables added to this process's own."""
    words = [str(each) for each in arguments]
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("out", "err")]
        order = {
            "arguments": words,
            "cwd": str(cwd or Path.cwd()),
            "env": {**os.environ, **(env or {})},
            "files": list(map(str, files)),
        }
        process = _parent()
        assert process.stdin and process.stdout
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
        code = int(process.stdout.readline())
        return subprocess.CompletedProcess(words, code, *(each.read_text() for each in files))


@cache
def _parent() -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, __file__], stdin=pipe, stdout=pipe, text=True)
    atexit.register(process.communicate)
    return process


def _serve() -> None:
    from cupola.runtime import tasks

    for name in ("detection", "language"):
        for module in tasks.find(name).modules:
            __import__(module)
    # Its addresses are read from the environment when it is imported.
    assert "huggingface_hub" not in sys.modules
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            os._exit(_run(json.loads(line)))
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def _run(order: dict[str, Any]) -> int:
    from cupola.cli.main import main

    os.environ.clear()
    os.environ.update(order["env"])
    os.chdir(order["cwd"])
    sys.path[:0] = [part for part in order["env"].get("PYTHONPATH", "").split(":") if part]
    for number, path in enumerate(order["files"], 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = ["cupola", *order["arguments"]]
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    _serve()
