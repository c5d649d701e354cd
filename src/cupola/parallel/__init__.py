"""Process groups, collectives with gradients, and layers that are split over ranks.

Everything is the identity at size 1, so a model has one code path for one process or many.
"""

from cupola.parallel.batches import broadcast_batch
from cupola.parallel.checkpointing import checkpoint
from cupola.parallel.communicate import all_gather, all_reduce, barrier, broadcast
from cupola.parallel.cross_entropy import vocab_parallel_cross_entropy
from cupola.parallel.elementwise import by_lanes
from cupola.parallel.embedding import VocabParallelEmbedding
from cupola.parallel.gradients import average_gradients, clip_gradients, mean_over_ranks
from cupola.parallel.groups import SINGLE, Group, GroupError, Mesh
from cupola.parallel.layers import ColumnParallelLinear, RowParallelLinear
from cupola.parallel.mappings import (
    copy_to_ranks,
    gather_from_ranks,
    gather_sequence,
    reduce_from_ranks,
    scatter_sequence_sum,
    scatter_to_ranks,
)
from cupola.parallel.random import RandomStreams
from cupola.parallel.recording import is_recorded, record
from cupola.parallel.sharding import shard_dims, take
from cupola.parallel.softmax import causal_mask, scale_mask_softmax

__all__ = [
    "SINGLE",
    "ColumnParallelLinear",
    "Group",
    "GroupError",
    "Mesh",
    "RandomStreams",
    "RowParallelLinear",
    "VocabParallelEmbedding",
    "all_gather",
    "all_reduce",
    "average_gradients",
    "barrier",
    "broadcast",
    "broadcast_batch",
    "by_lanes",
    "causal_mask",
    "checkpoint",
    "clip_gradients",
    "copy_to_ranks",
    "gather_from_ranks",
    "gather_sequence",
    "is_recorded",
    "mean_over_ranks",
    "record",
    "reduce_from_ranks",
    "scale_mask_softmax",
    "scatter_sequence_sum",
    "scatter_to_ranks",
    "shard_dims",
    "take",
    "vocab_parallel_cross_entropy",
]
