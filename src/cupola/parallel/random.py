"""RandomStreams: a stream of random numbers that the tensor ranks share, and an own one.

What is replicated (hidden dropout) must draw alike on every rank; what is split (attention
dropout) must not. The own stream starts at seed + 2718 + tensor rank, as Megatron-LM's does.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from cupola.parallel.groups import Group, alone

OWN_OFFSET = 2718


class RandomStreams:
    """The shared stream seeds torch's default generator; the rank's own is kept apart."""

    def __init__(self, seed: int, group: Group | None = None) -> None:
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed + OWN_OFFSET + alone(group).rank)
        self._own = generator.get_state()

    @contextmanager
    def own(self) -> Iterator[None]:
        """Inside, random numbers come from this rank's stream; outside, from the shared one."""
        shared = torch.get_rng_state()
        torch.set_rng_state(self._own)
        try:
            yield
        finally:
            self._own = torch.get_rng_state()
            torch.set_rng_state(shared)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Both streams, for a checkpoint."""
        return {"shared": torch.get_rng_state(), "own": self._own}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Continues both streams where `state_dict` saw them."""
        torch.set_rng_state(state["shared"])
        self._own = state["own"]
