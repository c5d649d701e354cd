"""What torchrun must be told on several nodes, where a rank cannot change it any more."""

import os
import warnings

VARIABLE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"


def warn_of_shared_store() -> None:
    """Warns in rank 0 if a restart by torchrun would wait in vain.

    By default the ranks meet in the store of torchrun's own rendezvous (dynamic_rendezvous.py in
    torch.distributed.elastic), which a restart does not clear: after a failure on one node, the
    ranks of the others read the keys of the first start.
    """
    environment = os.environ
    nodes = int(environment.get("GROUP_WORLD_SIZE", 1))
    restarts = int(environment.get("TORCHELASTIC_MAX_RESTARTS", 0))
    if nodes < 2 or not restarts or environment.get("RANK") != "0":
        return
    if environment.get(VARIABLE) != "1":
        warnings.warn(
            f"torchrun shares the store of its rendezvous: after a failure, --max-restarts="
            f"{restarts} over {nodes} nodes would wait until the timeout; set {VARIABLE}=1 in the "
            "environment of torchrun on every node",
            stacklevel=2,
        )
