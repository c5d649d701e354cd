"""Reads the published configs with mmengine and with Cupola: time ratio, how many are equal, built.

    python bench/config.py [WHEELS]

WHEELS is a folder with the unpacked wheels of mmdet 2.28.2, mmdet 3.3.0 and mmdet3d 1.4.0, which
carry their configs under `.mim/configs`; without it they are downloaded to a temporary folder.
Both readers take every file in turn in one process, and the time is that of the processor.
"""

import logging
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from pathlib import Path
from typing import Any

WHEELS = ("mmdet==2.28.2", "mmdet==3.3.0", "mmdet3d==1.4.0")


def download(folder: Path) -> None:
    """Downloads and unpacks the wheels; nothing is installed."""
    for wheel in WHEELS:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run([*command, "--dest", str(folder), wheel], check=True)
    for path in list(folder.glob("*.whl")):
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder / path.stem)


def published(folder: Path) -> list[Path]:
    """The config files, sorted."""
    return sorted(path for path in folder.rglob("*.py") if ".mim/configs" in path.as_posix())


def without_functions(made: dict[str, Any]) -> dict[str, Any]:
    """mmengine's dict of three scripts among the configs holds functions, which are no data."""
    return {key: value for key, value in made.items() if not callable(value)}


def measure(paths: list[Path]) -> dict[str, Any]:
    """Reads all files both ways."""
    from mmengine.config import Config as Peer

    from cupola.config import Config

    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    found: dict[str, Any] = {"read": 0, "equal": 0, "ours": 0.0, "theirs": 0.0, "different": []}
    for path in paths:
        try:
            began = time.process_time()
            expected = Peer.fromfile(str(path), import_custom_modules=False).to_dict()
            took = time.process_time() - began
        except Exception:  # needs another package, or a base that the wheel lacks
            continue
        began = time.process_time()
        made = Config.load(path).to_dict()
        found["ours"] += time.process_time() - began
        found["theirs"] += took
        found["read"] += 1
        if repr(made) == repr(without_functions(expected)):
            found["equal"] += 1
        else:
            found["different"].append(str(path))
    return found


def main() -> None:
    """Prints the figures."""
    from cupola.cli.coverage import summary
    from cupola.runtime.coverage import cover

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else temporary)
        if len(sys.argv) < 2:
            download(folder)
        paths = published(folder)
        found = measure(paths)
        covered = [cover(path) for path in paths]
    print(f"files that mmengine reads   {found['read']}")
    print(f"equal dicts                 {found['equal']}")
    print(f"mmengine                    {found['theirs']:.2f} s")
    print(f"cupola                      {found['ours']:.2f} s")
    print(f"cupola / mmengine           {found['ours'] / found['theirs']:.3f}")
    print(f"cupola coverage             {summary(covered)}")
    for path in found["different"]:
        print(f"different: {path}")


if __name__ == "__main__":
    main()
