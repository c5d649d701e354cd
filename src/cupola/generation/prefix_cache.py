"""PrefixCache: which blocks of a cache hold the beginnings of texts, for requests to come.

The keys and values of a token depend on all tokens up to it. A block is therefore found by a hash
of its tokens and of the block before it, so that equal hashes mean equal texts from the first token
on. Blocks that no request uses are kept until they are needed, the least recently used go first.

One cache belongs to one model: nothing is shared between models or adapters.
"""

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence


class PrefixCache:
    """Blocks by the hash of all tokens up to their end."""

    def __init__(self, block: int) -> None:
        self.block = block  # tokens of a block
        self.idle: OrderedDict[int, None] = OrderedDict()  # kept, but unused; the oldest first
        self.looked_up = 0  # prompt tokens of all requests
        self.reused = 0  # those of them that were not computed again
        self._blocks: dict[bytes, int] = {}
        self._digests: dict[int, bytes] = {}

    def find(self, tokens: Sequence[int]) -> tuple[list[int], list[bytes]]:
        """The blocks that hold the beginning of `tokens`, not all of them, and their hashes."""
        blocks: list[int] = []
        digests: list[bytes] = []
        parent = b""
        for start in range(0, len(tokens) - self.block, self.block):
            parent = digest(parent, tokens[start : start + self.block])
            if parent not in self._blocks:
                break
            blocks.append(self._blocks[parent])
            digests.append(parent)
        return blocks, digests

    def add(self, parent: bytes, tokens: Sequence[int], block: int) -> bytes:
        """The hash of a full block, which is found from now on unless an equal one is known."""
        found = digest(parent, tokens)
        if found not in self._blocks:
            self._blocks[found] = block
            self._digests[block] = found
        return found

    def keep(self, block: int) -> bool:
        """Keeps a block that no request uses any more; False if nobody could find it."""
        if block not in self._digests:
            return False
        self.idle[block] = None
        return True

    def evict(self) -> int:
        """The block that was unused the longest, which is not found any more."""
        block, _ = self.idle.popitem(last=False)
        del self._blocks[self._digests.pop(block)]
        return block


def digest(parent: bytes, tokens: Sequence[int]) -> bytes:
    """A hash of the tokens of a block and of all before it."""
    return hashlib.blake2b(parent + array("q", tokens).tobytes(), digest_size=16).digest()
