"""The entry point of the `cupola` command."""

import atexit
import gc
import sys
from collections.abc import Callable

import pytest

from cupola.cli import main


def test_no_garbage_is_looked_for_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The interpreter would go through all of torch's modules again."""
    registered: list[Callable[[], object]] = []
    monkeypatch.setattr(atexit, "register", registered.append)
    monkeypatch.setattr(sys, "argv", ["cupola", "--help"])
    with pytest.raises(SystemExit):
        main.main()
    assert "predict" in capsys.readouterr().out
    assert gc.freeze in registered
