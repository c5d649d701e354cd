"""over_ranks: the embedding and the cross entropy of a language model on P processes, step by step.

Each process holds its rows of the vocabulary, looks up the tokens among them, and computes the
logits of its rows. Three all-reduces of one number a token make the loss; see
parallel/cross_entropy.py, whose steps are taken apart here.
"""

import multiprocessing
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cupola import nn
from cupola.errors import EngineError, InputError
from cupola.parallel import Mesh, all_reduce, vocab_parallel_cross_entropy
from cupola.parallel.communicate import MAX
from cupola.registry import build
from cupola.weights import load_shard

TIMEOUT = 120.0  # seconds until a missing rank is an error


@dataclass(frozen=True)
class RankSteps:
    """What one rank did for the tokens of a text, the last of which predicts `target`.

    Rows first up to last of the vocabulary; found: the positions of the tokens among them; norm: of
    its summand of the embedding; largest and total: of its logits, total of exp(logit - m) with m
    the largest of all ranks; chosen: the target's logit - m, None on ranks that do not hold it;
    loss: after the all-reduces, equal on every rank.
    """

    rank: int
    first: int
    last: int
    found: tuple[int, ...]
    norm: float
    largest: float
    total: float
    chosen: float | None
    loss: float


def over_ranks(
    config: Mapping[str, Any], weights: Path, ids: Sequence[int], size: int
) -> list[RankSteps]:
    """Runs `size` processes on this machine, and returns what each did, by rank.

    `ids` are two tokens or more: all but the last are the text, the last one is the target.
    InputError for fewer, or for a size that the model's heads do not divide into; EngineError if a
    process fails.
    """
    if len(ids) < 2:
        raise InputError("the loss over ranks needs a text of two tokens or more")
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        meeting = f"file://{folder}/meeting"
        pipes = [context.Pipe(duplex=False) for _ in range(size)]
        processes = [
            context.Process(
                target=_run, args=(sender, dict(config), weights, tuple(ids), rank, size, meeting)
            )
            for rank, (_, sender) in enumerate(pipes)
        ]
        for process, (_, sender) in zip(processes, pipes, strict=True):
            process.start()
            sender.close()
        try:
            return [_answer(receiver, rank) for rank, (receiver, _) in enumerate(pipes)]
        finally:
            for process in processes:
                process.join(5)
                process.kill()


def _answer(receiver: Any, rank: int) -> RankSteps:
    try:
        answer = receiver.recv()
    except EOFError:
        raise EngineError(f"rank {rank} ended without an answer") from None
    if isinstance(answer, RankSteps):
        return answer
    raise InputError(f"rank {rank}: {answer}")


def _run(
    sender: Any,
    config: dict[str, Any],
    weights: Path,
    ids: tuple[int, ...],
    rank: int,
    size: int,
    meeting: str,
) -> None:
    """One process: joins the others, and sends its steps or the message of its error."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    try:
        with Mesh.start(
            tensor=size,
            timeout=TIMEOUT,
            init_method=meeting,
            rank=rank,
            world_size=size,
            backend="gloo",
        ) as mesh:
            with nn.on_meta():
                model = build(config, group=mesh.tensor)
            load_shard(model, weights, mesh.tensor)
            sender.send(_steps(model.eval(), mesh, torch.tensor([ids])))
    except Exception as error:  # shown by the parent
        sender.send(str(error))


@torch.no_grad()
def _steps(model: Any, mesh: Mesh, ids: torch.Tensor) -> RankSteps:
    group, table = mesh.tensor, model.head
    text, target = ids[:, :-1], ids[0, -1]
    mine = (text[0] >= table.first) & (text[0] < table.last)
    rows = table.weight[(text[0][mine] - table.first)].float()
    logits = model.local_logits(model.trunk(text))[0, -1].float()  # [V/P], of the last token
    most = all_reduce(logits.amax(), group, MAX)
    held = table.first <= int(target) < table.last
    return RankSteps(
        rank=group.rank,
        first=table.first,
        last=table.last,
        found=tuple(mine.nonzero()[:, 0].tolist()),
        norm=float(rows.norm()),
        largest=float(logits.amax()),
        total=float((logits - most).exp().sum()),
        chosen=float(logits[int(target) - table.first] - most) if held else None,
        loss=float(vocab_parallel_cross_entropy(logits, target, group)),
    )
