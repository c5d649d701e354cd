"""What each rank holds of an embedding, an MLP and a cross entropy, and that the sums agree.

torchrun --standalone --nproc-per-node 4 examples/tensor_parallel.py

Without torchrun it runs on one process, which must print the same loss.
"""

import os

import torch

from cupola.models.bloom.block import MLP
from cupola.models.bloom.settings import BloomSettings
from cupola.parallel import VocabParallelEmbedding, vocab_parallel_cross_entropy
from cupola.parallel.communicate import all_reduce
from cupola.parallel.groups import Mesh

SETTINGS = BloomSettings(vocab_size=1200, hidden_size=64, n_layer=1, n_head=4)


def main() -> None:
    mesh = Mesh.start(tensor=int(os.environ.get("WORLD_SIZE", 1)))
    group = mesh.tensor
    torch.manual_seed(0)  # all ranks draw the same matrices and keep their slices
    table = VocabParallelEmbedding(SETTINGS.vocab_size, SETTINGS.hidden_size, group=group)
    mlp = MLP(SETTINGS, group)
    ids, targets = torch.randint(0, SETTINGS.vocab_size, (2, 1, 8))

    known = int(((ids >= table.first) & (ids < table.last)).sum())
    x = table(ids)  # summed over the ranks
    partial = (mlp.gelu(mlp.dense_h_to_4h(x)) @ mlp.dense_4h_to_h.weight.t()).detach()
    y = mlp(x)
    missing = (all_reduce(partial, group) + mlp.dense_4h_to_h.bias - y).abs().max()
    loss = vocab_parallel_cross_entropy(y @ table.weight.t(), targets, group).mean()

    print(
        f"rank {group.rank} of {group.size}: rows {table.first}..{table.last - 1} of the table, "
        f"{known} of {ids.numel()} ids; MLP {list(mlp.dense_h_to_4h.weight.shape)} and "
        f"{list(mlp.dense_4h_to_h.weight.shape)}; partial sum {partial.norm():.2f} of "
        f"{y.norm():.2f}, off by {missing:.0e} when added up; loss {loss:.4f}",
        flush=True,
    )
    mesh.stop()


if __name__ == "__main__":
    main()
