"""Fixtures of the server, for the files that deploy it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "serve"))

from serve.conftest import serve  # noqa: F401
