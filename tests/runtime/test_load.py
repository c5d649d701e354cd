"""`Predictor.load`: what a source may be."""

from pathlib import Path

import pytest

from cupola import Predictor
from cupola.config import CONFIG_SUFFIXES
from cupola.errors import BundleError


@pytest.mark.parametrize("suffix", CONFIG_SUFFIXES)
def test_a_config_file_of_every_suffix_asks_for_its_checkpoint(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(BundleError, match="a config needs a checkpoint"):
        Predictor.load(tmp_path / f"detr{suffix}")
