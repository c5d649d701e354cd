"""Compiles src/cupola/serve/grpc/*.proto into protocols.binpb, which the server reads.

Needs grpcio-tools: `python scripts/protocols.py`.
"""

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "src/cupola/serve/grpc"


def compile_to(target: Path) -> None:
    """Writes the descriptors of all protocols."""
    files = sorted(path.name for path in FOLDER.glob("*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={FOLDER}"]
    subprocess.run([*command, f"--descriptor_set_out={target}", *files], check=True)


if __name__ == "__main__":
    compile_to(FOLDER / "protocols.binpb")
