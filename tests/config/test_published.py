"""The published configs of MMDetection and MMDetection3D: read as mmengine does, and built (slow).

CUPOLA_WHEELS may name a folder with the unpacked wheels; else they are downloaded.
"""

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest

import cupola
from cupola.config import Config

pytestmark = pytest.mark.slow
BENCH = Path(__file__).parents[2] / "bench" / "config.py"
PARAMETERS = {
    "detr_r18_8xb2-500e_coco": 28_850_325,
    "detr_r50_8x2_150e_coco": 41_575_061,  # MMDetection 2.28.2's spelling
    "detr_r50_8xb2-150e_coco": 41_575_061,
    "detr_r50_8xb2-500e_coco": 41_575_061,
    "detr_r101_8xb2-500e_coco": 60_567_189,
}


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_config", BENCH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def wheels(bench: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if "CUPOLA_WHEELS" in os.environ:
        return Path(os.environ["CUPOLA_WHEELS"])
    folder = tmp_path_factory.mktemp("wheels")
    bench.download(folder)
    return folder


def test_every_published_config_gives_the_dict_of_mmengine(bench: ModuleType, wheels: Path) -> None:
    pytest.importorskip("mmengine")
    found = bench.measure(bench.published(wheels))
    assert found["read"] == 1729
    assert found["different"] == []


def test_every_published_detr_is_built(bench: ModuleType, wheels: Path) -> None:
    paths = [path for path in bench.published(wheels) if path.stem in PARAMETERS]
    assert {path.stem for path in paths} == set(PARAMETERS)
    for path in paths:
        # the published weights are on the network
        cfg = Config.load(path).override(["model.backbone.init_cfg=None"])
        model = cupola.build(cfg)
        assert sum(p.numel() for p in model.parameters()) == PARAMETERS[path.stem], path
