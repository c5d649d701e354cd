"""The published configs of MMDetection and MMDetection3D, against mmengine (slow; downloads)."""

import importlib.util
import os
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench" / "config.py"


@pytest.mark.slow
def test_every_published_config_gives_the_dict_of_mmengine(tmp_path: Path) -> None:
    """CUPOLA_WHEELS may name a folder with the unpacked wheels; else they are downloaded."""
    pytest.importorskip("mmengine")
    spec = importlib.util.spec_from_file_location("bench_config", BENCH)
    assert spec is not None and spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    folder = Path(os.environ.get("CUPOLA_WHEELS", tmp_path))
    if "CUPOLA_WHEELS" not in os.environ:
        bench.download(folder)
    found = bench.measure(bench.published(folder))
    assert found["read"] == 1729
    assert found["different"] == []
    assert found["ours"] < found["theirs"] / 5
