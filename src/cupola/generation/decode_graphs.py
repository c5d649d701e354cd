"""DecodeGraphs: steps of one token per request, recorded as CUDA graphs and replayed.

On a GPU such a step is hundreds of small kernels, and launching them takes longer than running
them. A graph launches all at once. It has fixed shapes, so there is one for each number of requests
and length of the longest text, both rounded up to powers of two. It is recorded when it is first
needed, in about the time of three steps.

Letters: R requests, L tokens of the longest, N query heads, G key-value heads, D head size, H
hidden.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cupola.generation.cache import BLOCK, BlockCache
from cupola.generation.paged_attention import Segment
from cupola.generation.protocol import CausalLM, run_layers
from cupola.parallel import record

LEAST_LENGTH = 128  # tokens
FIELDS = 3  # of a request, before its blocks: id, position, slot


class DecodeGraphs:
    """The recorded steps of one model and cache."""

    def __init__(self, model: CausalLM, cache: BlockCache, slopes: Tensor | None) -> None:
        self.model, self.cache, self.slopes = model, cache, slopes
        self._pool: Any = torch.cuda.graph_pool_handle()
        self._graphs: dict[tuple[int, int], DecodeGraph] = {}

    @staticmethod
    def can_run(model: CausalLM) -> bool:
        """Whether steps of this model can be recorded: it is whole, and on a GPU."""
        return model.device.type == "cuda" and model.group.size == 1 and not model.deterministic

    def __call__(self, ids: Sequence[int], segments: Sequence[Segment]) -> Tensor:
        """Hidden states [R, H] after the final norm, from one new token of each request."""
        rows = step_rows(ids, segments)
        graph = self._graphs.get((len(rows), len(rows[0])))
        if graph is None:
            graph = DecodeGraph(self.model, self.cache, self.slopes, rows, self._pool)
            self._graphs[len(rows), len(rows[0])] = graph
        return graph(rows)[: len(ids)]


def one_token_each(segments: Sequence[Segment]) -> bool:
    """Whether every request has exactly one new token."""
    return all(part.stop - part.start == 1 for part in segments)


def step_rows(ids: Sequence[int], segments: Sequence[Segment]) -> list[list[int]]:
    """For each request its id, position, slot and blocks; the last two counts rounded up.

    The first request is repeated: the same keys are written to the same place again.
    """
    blocks = -(-max(LEAST_LENGTH, *(part.length for part in segments)) // BLOCK)
    blocks = _power(blocks)
    rows = []
    for token, part in zip(ids, segments, strict=True):
        slot = part.table.slots(part.past, part.length)[0]
        own = part.table.blocks[: -(-part.length // BLOCK)]
        rows.append([token, part.past, slot, *own, *[0] * (blocks - len(own))])
    return rows + [rows[0]] * (_power(len(rows)) - len(rows))


class DecodeGraph:
    """One recorded step, for a number of requests and of blocks of each."""

    def __init__(
        self,
        model: CausalLM,
        cache: BlockCache,
        slopes: Tensor | None,
        rows: list[list[int]],
        pool: Any,
    ) -> None:
        """`rows` are those of a step that is due: the steps before the recorded one compute it."""
        device = model.device
        shape = (len(rows), len(rows[0]))
        self.pinned = torch.empty(shape, dtype=torch.long, pin_memory=True)
        self.given = torch.empty(shape, dtype=torch.long, device=device)
        self._write(rows)
        step = partial(decode_step, model, cache, slopes, self.given)
        self.graph, self.hidden = record(step, device, pool)

    def _write(self, rows: list[list[int]]) -> None:
        self.pinned.copy_(torch.tensor(rows))
        self.given.copy_(self.pinned, non_blocking=True)

    def __call__(self, rows: list[list[int]]) -> Tensor:
        """Hidden states [R, H], in memory that no other graph uses."""
        self._write(rows)
        self.graph.replay()
        return self.hidden.clone()


def decode_step(model: CausalLM, cache: BlockCache, slopes: Tensor | None, given: Tensor) -> Tensor:
    """Hidden states [R, H] of the tokens whose `step_rows` are given [R, FIELDS + blocks]."""
    context = DecodeContext(cache, slopes, given)
    x = model.embed(given[:, 0], context.positions)  # [R, H]
    return model.final_norm(run_layers(model.layers, x, context))


class DecodeContext:
    """Attention of one query per request over its blocks, without numbers known to the CPU."""

    def __init__(self, cache: BlockCache, slopes: Tensor | None, given: Tensor) -> None:
        self.cache = cache
        self.positions, self.slots = given[:, 1], given[:, 2]
        places = torch.arange(BLOCK, device=given.device)
        slots = (given[:, FIELDS:, None] * BLOCK + places).flatten(1)  # [R, L]
        keys = torch.arange(slots.shape[1], device=given.device)  # [L]
        later = keys > self.positions[:, None]  # [R, L]
        # What lies past a text's end may be anything: its first token is read instead, and masked.
        self.table = torch.where(later, slots[:, :1], slots).flatten()  # [R L]
        bias = torch.zeros(1, device=given.device) if slopes is None else slopes
        bias = bias[None, :, None] * keys.float()  # [1, N or 1, L]
        self.bias = bias.masked_fill(later[:, None], -torch.inf)  # [R, N or 1, L]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """[R, heads, D] each -> [R, N, D]."""
        self.cache.write(layer, self.slots, key, value)
        R, N, D = query.shape
        keys, values = self._read(self.cache.keys[layer]), self._read(self.cache.values[layer])
        G, L = keys.shape[1:3]
        queries = (query / math.sqrt(D)).view(R, G, N // G, D)
        scores = (queries @ keys.transpose(2, 3)).view(R, N, L).float()
        weights = (scores + self.bias).softmax(-1).to(query.dtype)
        return (weights.view(R, G, N // G, L) @ values).view(R, N, D)

    def _read(self, pool: Tensor) -> Tensor:
        """Keys or values [R, G, L, D] of all requests."""
        G, _, D = pool.shape
        found = pool.index_select(1, self.table)  # [G, R L, D]
        return found.view(G, len(self.positions), -1, D).transpose(0, 1)


def _power(number: int) -> int:
    return 1 << (number - 1).bit_length()
