"""ArgmaxShortlist: the likeliest next token, exactly, without reading the whole head.

The head of BLOOM is its word table, 250,880 rows: nearly half of what one token of bloom-560m
reads. A copy of it in eight bits gives every logit to within a bound. Only the few rows that could
still be the largest are then computed from the table itself.

The bound, for a row w rounded to v and a hidden state x rounded to z, follows from Cauchy-Schwarz:
|w.x - v.z| <= |w - v| |x| + |v| |x - z|. The sum over H is rounded by H eps |w| |x| at most.

Letters: R rows (requests), V vocabulary, H hidden.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from cupola.parallel.eight_bits import AT_ONCE, EightBitMatrix, rounded_parts
from cupola.parallel.linear import linear

TOO_MANY = 8  # if more than one row in so many is left, the whole table is read after all


class ArgmaxShortlist:
    """Hidden states [R, H] -> the ids that argmax over their logits would give.

    `logits(hidden [1, H], ids [n])` gives the logits [1, n] of some ids, or of all [by `linear`];
    `kernel` multiplies the copy (parallel/eight_bits.py).
    """

    def __init__(
        self,
        table: Tensor,
        logits: Callable[[Tensor, Tensor | None], Tensor] | None = None,
        kernel: str | None = None,
    ) -> None:
        self._logits = logits or self._from_table
        self.table = table.detach()  # [V, H]
        parts = list(rounded_parts(table))
        self.small = EightBitMatrix(table, parts, kernel)
        norms = [
            _norms(exact.float(), rows.float() * scales[:, None])
            for exact, (rows, scales) in zip(torch.split(self.table, AT_ONCE), parts, strict=True)
        ]
        self.norms, self.losses = torch.cat(norms, 1)  # [V] |v|, [V] |w - v|

    def __call__(self, hidden: Tensor) -> list[int]:
        """[R, H] -> R token ids."""
        x = hidden.float()
        rows, scales = self.small.rounded(x)
        near = self.small.product(rows, scales)  # [R, V]
        error = (x - rows * scales[:, None]).norm(dim=1)  # [R] |x - z|
        rounding = x.shape[1] * torch.finfo(x.dtype).eps  # of the sum over H, at most
        return [
            self._best(
                hidden[r : r + 1],
                near[r],
                x[r].norm() * (self.losses + rounding * (self.norms + self.losses))
                + error[r] * self.norms,
            )
            for r in range(len(hidden))
        ]

    def _best(self, hidden: Tensor, near: Tensor, slack: Tensor) -> int:
        """The likeliest token of a state [1, H] with logits [V] of `near`, give or take `slack`."""
        least = (near - slack).amax()
        least -= least.abs() * torch.finfo(hidden.dtype).eps * 4  # logits are rounded, and may tie
        left = (near + slack >= least).nonzero()[:, 0]
        if len(left) * TOO_MANY > len(near):
            return int(self._logits(hidden, None).argmax())
        return int(left[self._logits(hidden, left).argmax()])

    def _from_table(self, hidden: Tensor, ids: Tensor | None) -> Tensor:
        return linear(hidden, self.table if ids is None else self.table[ids])


def _norms(exact: Tensor, kept: Tensor) -> Tensor:
    return torch.stack([kept.norm(dim=1), (exact - kept).norm(dim=1)])
