"""Rank 0 drives, the others run the same steps: the text is that of one process."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from cupola.errors import BundleError, EngineError
from cupola.generation.tensor_parallel import Driver, run_worker
from cupola.parallel import Mesh
from cupola.runtime import Predictor
from cupola.runtime.load import load_shard
from language_toys import language_bundle
from ranks import RankPool

PROMPTS = ("It is", "床前", "a wife of a wife of a wife")
HOW = {"max_tokens": 12, "temperature": 1.0, "top_p": 0.9, "stop": "th"}


def complete(mesh: Mesh, folder: Path) -> list[str]:
    """The texts of rank 0, which drives the others."""
    predictor = load_shard(folder, mesh.tensor)

    def send(order: Any) -> None:
        dist.broadcast_object_list([order], 0, mesh.tensor.handle)

    def orders() -> Iterator[Any]:
        while True:
            heard = [None]
            dist.broadcast_object_list(heard, 0, mesh.tensor.handle)
            if heard[0] is None:
                return
            yield heard[0]

    if mesh.tensor.rank:
        run_worker(predictor.new_scheduler, orders())
        return []
    predictor.send = send
    texts = [found.text for found in run(predictor)]
    send(None)
    return texts


def run(predictor: Any) -> list[Any]:
    samples = [predictor.sample(prompt, HOW, row) for row, prompt in enumerate(PROMPTS)]
    return [*predictor.run(samples), *predictor.run(samples[:1])]


def test_ranks_write_what_one_process_writes(ranks: RankPool, tmp_path: Path) -> None:
    folder = language_bundle(tmp_path / "toy-text").path
    expected = [found.text for found in run(Predictor.load(folder))]
    assert ranks.run(complete, folder)[0] == expected


def test_the_failure_of_a_rank_is_an_engine_error(tmp_path: Path) -> None:
    predictor = Predictor.load(language_bundle(tmp_path / "toy-text").path)

    def send(order: Any) -> None:
        raise BrokenPipeError("rank 1 is gone")

    driver = Driver(predictor.new_scheduler(), 0, send)
    driver.add("x", [3], predictor.sample("a", {}).sampling)
    with pytest.raises(EngineError, match="a tensor-parallel rank failed: rank 1 is gone"):
        driver.step()


def test_only_language_models_are_split() -> None:
    with pytest.raises(BundleError, match="detr-digits: a detection model cannot be split"):
        load_shard("detr-digits", Mesh().tensor)
