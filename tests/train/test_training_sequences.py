"""Sequences side by side: the sampler, the state from batch to batch, resuming, evaluation."""

from itertools import islice, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cupola.errors import BuildError, DataError
from cupola.registry import build
from cupola.train.evaluation import StreamPredictions
from cupola.train.loading import BatchStream, evaluation_loader
from cupola.train.sequences import ParallelSequences, SequenceBatches
from cupola.train.trainer import Trainer
from models.stream_petr.small import small_stream

STREETS = {"type": "DrivingStreets", "count": 3, "frames": 3, "size": (64, 96)}


def sequences(*lengths: int) -> SimpleNamespace:
    made, start = [], 0
    for length in lengths:
        made.append(range(start, start + length))
        start += length
    return SimpleNamespace(sequences=made)


def test_each_place_follows_a_sequence_and_places_start_apart() -> None:
    data = sequences(4, 4, 4, 4, 4)
    batches = list(islice(SequenceBatches(data, 2, 0, 0, 0, 1), 60))
    starts = []
    for place in zip(*batches, strict=True):
        for index, following in pairwise(place):
            assert following == index + 1 if index % 4 != 3 else following % 4 == 0
        starts.append(place[0] % 4)
        assert len({index // 4 for index in place}) == 5
    assert starts == [0, 2]


def test_batches_depend_on_seed_and_step_only_and_ranks_share_them() -> None:
    data = sequences(3, 4, 5, 2, 3, 4)
    whole = list(islice(SequenceBatches(data, 4, 7, 0, 0, 1), 30))
    assert list(islice(SequenceBatches(data, 4, 7, 11, 0, 1), 19)) == whole[11:]
    ranks = [list(islice(SequenceBatches(data, 2, 7, 0, rank, 2), 30)) for rank in (0, 1)]
    assert [a + b for a, b in zip(*ranks, strict=True)] == whole
    assert list(islice(SequenceBatches(data, 4, 8, 0, 0, 1), 30)) != whole


def test_a_sampler_of_sequences_needs_enough_of_them() -> None:
    with pytest.raises(BuildError, match="2 sequences are not enough for a batch of 3"):
        SequenceBatches(sequences(4, 4), 3, 0, 0, 0, 1)
    with pytest.raises(BuildError, match="SimpleNamespace has no sequences; remove the sampler"):
        SequenceBatches(SimpleNamespace(), 3, 0, 0, 0, 1)


def test_evaluation_takes_every_frame_once_in_order() -> None:
    batches = ParallelSequences(sequences(2, 3, 1).sequences, 2)
    assert list(batches) == [[0, 2], [1, 3], [4], [5]] and len(batches) == 4
    loader = evaluation_loader({"batch_size": 2, "dataset": STREETS})
    names = [batch["streams"] for batch in loader]
    assert names == [["train-0-0", "train-0-1"]] * 3 + [["train-0-2"]] * 3


class Counter:
    """A model of streams whose prediction is the number of frames so far."""

    def initial_state(self, count: int) -> tuple[torch.Tensor]:
        return State(torch.zeros(count))

    def predict_frame(self, batch: dict[str, Any], state: Any) -> Any:
        return (state.frames + 1).tolist(), State(state.frames + 1)


class State(tuple):
    def __new__(cls, frames: torch.Tensor) -> "State":
        return super().__new__(cls, (frames,))

    @property
    def frames(self) -> torch.Tensor:
        return self[0]


def test_evaluation_keeps_one_state_per_stream() -> None:
    predict = StreamPredictions(Counter())

    def frames(names: list[str], later: float) -> Any:
        return predict({"streams": names, "prev_exists": torch.full((len(names),), later)})

    assert frames(["a", "b"], 0) == [1, 1]
    assert frames(["a", "b"], 1) == [2, 2]
    assert frames(["b"], 1) == [3]
    assert frames(["c", "b"], 0) == [1, 1]
    with pytest.raises(DataError, match="continues streams that the batch before does not have"):
        frames(["a"], 1)


def config(**train_cfg: Any) -> dict[str, Any]:
    return {
        "model": small_stream(num_classes=4),
        "train_dataloader": {
            "batch_size": 2,
            "dataset": STREETS,
            "sampler": {"type": "InfiniteGroupEachSampleInBatchSampler"},
        },
        "optim_wrapper": {"optimizer": {"type": "AdamW", "lr": 1e-3}},
        "train_cfg": train_cfg,
        "default_hooks": {"checkpoint": {"interval": 2}},
    }


def test_training_carries_the_state_and_resumes_with_it(tmp_path: Path) -> None:
    whole = Trainer(config(max_iters=4), tmp_path / "whole", quiet=True)
    whole.run()
    state = whole.model.training_state
    assert state.exists.tolist() == [1, 1]
    assert not state.embedding.requires_grad
    Trainer(config(max_iters=2), tmp_path / "parts", quiet=True).run()
    rest = Trainer(config(max_iters=4), tmp_path / "parts", quiet=True)
    rest.run(resume=True)
    assert rest.step == 4
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, rest.model.state_dict()[name]), name
    for mine, theirs in zip(state, rest.model.training_state, strict=True):
        assert torch.equal(mine, theirs)


def test_the_next_batch_of_a_stream_continues_its_state() -> None:
    torch.manual_seed(0)
    model = build(small_stream(num_classes=4)).eval()  # no dropout, no denoising
    stream = BatchStream(config()["train_dataloader"], seed=0)
    first, second, *_ = islice(stream.batches(0), 3)
    model.loss(first)
    kept = model.training_state
    together = model.loss(second)
    model.training_state = None
    alone = model.loss(second)
    assert (together["loss_bbox"] - alone["loss_bbox"]).abs() > 1e-6
    model.training_state = kept
    restarted = model.loss({**second, "prev_exists": torch.zeros(2)})
    torch.testing.assert_close(restarted["loss_bbox"], alone["loss_bbox"])


def test_a_run_can_be_limited_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter(range(1000))
    monkeypatch.setattr("cupola.train.trainer.monotonic", lambda: float(next(seconds)))
    rates = []
    monkeypatch.setattr(
        "cupola.train.trainer.set_rates", lambda optimizer, step, schedules: rates.append(step) or 1
    )
    trainer = Trainer(config(max_iters=100, max_seconds=5), tmp_path, quiet=True)
    trainer.run()
    assert trainer.step == trainer.max_steps == 5
    assert rates == [0, 20, 40, 60, 80]  # the schedules follow the time
