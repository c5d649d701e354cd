"""Changes to bytes, JSON values and streams of pickle opcodes."""

import copy
import itertools
import pickletools
import random
import struct
from typing import Any

EDGES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1)
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 0.5, -1e308, 1e308, float("inf"), float("nan"), 10**9, 10**18,
    2**63, -(2**63), 10**30, 10**4200, "", "a", "/etc/passwd", "../../etc/passwd", "\x00", "²",
    "\x1b[31m\n", "\ud800", "x" * 5000, [], {}, [[]], [1] * 1000, {"a": {"b": []}}, "1", "NaN",
)  # fmt: skip


def change_bytes(data: bytes, draw: random.Random, most: int = 6) -> bytes:
    """A few bytes replaced, removed, repeated, or cut off."""
    found = bytearray(data)
    for _ in range(draw.randint(1, most)):
        at = draw.randrange(len(found) + 1)
        size = draw.choice((1, 1, 2, 4, 8, draw.randint(1, 64)))
        pick = draw.random()
        if pick < 0.4:
            found[at : at + size] = draw.randbytes(size)
        elif pick < 0.6:
            edge = draw.choice(EDGES)
            form = draw.choice(["<B", "<H", ">H", "<I", ">I", "<Q", ">Q"])
            number = edge & (256 ** struct.calcsize(form) - 1)
            found[at : at + struct.calcsize(form)] = struct.pack(form, number)
        elif pick < 0.75:
            del found[at : at + size]
        elif pick < 0.9:
            found[at:at] = found[at : at + size] * draw.choice((1, 2, 100))
        else:
            del found[at:]
        if not found:
            break
    return bytes(found)


def change_json(value: Any, draw: random.Random, most: int = 3) -> Any:
    """A value of JSON with some of its parts replaced, removed, renamed or repeated."""
    found = copy.deepcopy(value)
    for _ in range(draw.randint(1, most)):
        holders = [each for each in _holders(found) if each]
        if not holders:
            return copy.deepcopy(draw.choice(VALUES))
        holder = draw.choice(holders)
        key = draw.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        pick = draw.random()
        if pick < 0.6:
            holder[key] = copy.deepcopy(draw.choice(VALUES))
        elif pick < 0.75:
            del holder[key]
        elif pick < 0.9:
            other = draw.choice(holders)
            holder[key] = copy.deepcopy(draw.choice(list(_items(other))))
        elif isinstance(holder, dict):
            holder[str(draw.choice(VALUES))[:5000]] = holder.pop(key)
        else:
            holder *= draw.choice((2, 50))
    return found


def _items(holder: Any) -> Any:
    return holder.values() if isinstance(holder, dict) else holder


def _holders(value: Any) -> list[Any]:
    found, waiting = [], [value]
    while waiting and len(found) < 2000:
        current = waiting.pop()
        if isinstance(current, dict | list):
            found.append(current)
            waiting += _items(current)
    return found


HOSTILE_NAMES = (
    "os system", "builtins eval", "builtins getattr", "builtins bytearray", "builtins set",
    "builtins bytes", "collections OrderedDict", "_codecs encode", "numpy dtype", "numpy ndarray",
    "numpy.core.multiarray _reconstruct", "numpy.core.multiarray scalar", "torch Size",
    "numpy._core.numeric _frombuffer", "torch._utils _rebuild_tensor_v2", "torch FloatStorage",
    "torch._utils _rebuild_parameter", "torch._tensor _rebuild_from_type_v2", "torch.nn.Module Foo",
    "torch._utils _rebuild_tensor_v3", "torch float32", "builtins object", "copyreg _reconstructor",
)  # fmt: skip


def _opcode(draw: random.Random) -> bytes:
    """Any opcode with an argument of its form."""
    if draw.random() < 0.3:
        return b"c" + draw.choice(HOSTILE_NAMES).replace(" ", "\n").encode() + b"\n"
    if draw.random() < 0.3:
        return draw.choice([b"R", b"b", b"t", b"\x85", b"\x86", b"\x87", b"(", b"0", b"2", b"\x81"])
    op = draw.choice(pickletools.opcodes)
    code = op.code.encode("latin1")
    if op.arg is None:
        return code
    if op.arg.n > 0:
        return code + (draw.choice(EDGES) & (256**op.arg.n - 1)).to_bytes(op.arg.n, "little")
    if op.arg.n == pickletools.UP_TO_NEWLINE:
        return (
            code + draw.choice([b"1", b"-1", b"9" * 5000, b"'a'", b"x y", b"0x1", b"I01"]) + b"\n"
        )
    text = draw.choice([b"", b"a", b"latin1", b"f8", b"|O", b"\x00" * 8, b"\xed\xa0\x80"])
    width = {-2: 1, -3: 4, -4: 4, -5: 8}.get(op.arg.n, 4)
    length = len(text) if draw.random() < 0.8 else draw.choice(EDGES)
    return code + (length & (256**width - 1)).to_bytes(width, "little") + text


def change_pickle(data: bytes, draw: random.Random) -> bytes:
    """A stream of opcodes with some of them replaced, removed, repeated, moved or added."""
    starts = [at for _, _, at in pickletools.genops(data) if at is not None] + [len(data)]
    ops = [data[a:b] for a, b in itertools.pairwise(starts)]
    for _ in range(draw.choice((1, 1, 2, 4))):
        at = draw.randrange(len(ops))
        pick = draw.random()
        if pick < 0.3:
            ops[at:at] = [_opcode(draw)]
        elif pick < 0.5:
            ops[at] = _opcode(draw)
        elif pick < 0.65:
            ops.insert(at, draw.choice(ops))
        elif pick < 0.75 and len(ops) > 1:
            del ops[at]
        elif pick < 0.85:
            other = draw.randrange(len(ops))
            ops[at], ops[other] = ops[other], ops[at]
        elif pick < 0.95:
            ops[at] = ops[at][:1] + change_bytes(ops[at][1:], draw, 1) if ops[at][1:] else ops[at]
        else:
            ops[at:at] = [_opcode(draw)] * draw.choice((10, 1000, 50_000))
    return b"".join(ops)
