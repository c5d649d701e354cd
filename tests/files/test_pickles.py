"""Plain pickles: what MMDetection3D writes is read, and nothing else is, whatever it costs."""

import os
import pickle
import resource
import struct
import time
from typing import Any

import numpy as np
import pytest

from cupola.files import load_plain_pickle


class Calls:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


VALUES = {
    "boxes": np.arange(14.0).reshape(2, 7),
    "column order": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "names": np.array(["car", "truck"]),
    "objects": np.array(["car", None, 3], dtype=object),
    "valid": np.array([True, False]),
    "big endian": np.arange(3, dtype=">i4"),
    "empty": np.zeros((0, 9), np.float32),
    "scalar": np.float64(3.5),
    "count": np.int64(-2),
    "plain": [1, 2.5, "x", None, {"a": (1, 2)}, b"raw", {3}],
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", VALUES)
def test_plain_data_of_every_protocol(protocol: int, name: str) -> None:
    value = VALUES[name]
    data = pickle.dumps({"infos": [value, value]}, protocol=protocol)
    read = load_plain_pickle(data)["infos"][1]
    if isinstance(value, np.ndarray):
        assert read.dtype == pickle.loads(pickle.dumps(value, protocol)).dtype
        assert read.tolist() == value.tolist()
    else:
        assert read == value and type(read) is type(value)


def test_names_of_numpy_1_and_2_are_the_same() -> None:
    for protocol in (2, 4, 5):
        data = pickle.dumps(np.arange(3.0), protocol=protocol)
        old = data.replace(b"numpy._core.", b"numpy.core.") if protocol == 2 else data
        assert load_plain_pickle(old).tolist() == [0, 1, 2]


def nested(depth: int) -> bytes:
    """A dict whose key is a tuple of tuples; to hash it overflows the stack."""
    return b"\x80\x04}" + b")" + b"\x85" * depth + b"K\x01s."


HOSTILE = {
    "system": pickle.dumps(Calls(os.system, "touch /tmp/cupola-was-here")),
    "address": pickle.dumps(Calls(np.ndarray, (1,), "O", struct.pack("<Q", 0x7F00DEADBEEF))),
    "eval": pickle.dumps(Calls(eval, "1")),
    "getattr": pickle.dumps(Calls(getattr, "a", "upper")),
    "bytearray": pickle.dumps(Calls(bytearray, 2 * 10**9)),
    "long bytearray": b"\x80\x05\x96" + struct.pack("<Q", 2 * 10**9) + b".",
    "memo index": b"\x80\x02K\x01r\xff\xff\xff\x2f.",
    "memo get": b"\x80\x02j\xff\xff\xff\x7f.",
    "nested tuples": nested(1_500_000),
    "bytes of a size": pickle.dumps(Calls(bytes, 2 * 10**9)),
    "set of a range": pickle.dumps(Calls(set, Calls(range, 10**9))),
    "length": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.",
    "text length": b"\x80\x04\x8d" + struct.pack("<Q", 2**63) + b"x.",
    "long integer": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"\x01.",
    "frame": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"K\x01.",
    "truncated": pickle.dumps(list(range(1000)))[:-10],
    "empty": b"",
    "text": b"<html>not found</html>",
    "persistent": b"\x80\x02X\x01\x00\x00\x00aQ.",
    "extension": b"\x80\x02\x82\x01.",
    "lying shape": b"",
    "lying type": b"",
    "structured": b"",
    "array of addresses": b"",
}


def array_state(shape: Any, kind: bytes, raw: Any) -> bytes:
    """A pickle of an array whose state says anything."""
    head = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
    body = pickle.dumps(shape, 2)[2:-1] + kind + pickle.dumps(False, 2)[2:-1]
    return head + b"(K\x01" + body + pickle.dumps(raw, 3)[2:-1] + b"tb."


def kind(name: str) -> bytes:
    return b"cnumpy\ndtype\n" + pickle.dumps((name, False, True), 2)[2:-1] + b"R"


HOSTILE["lying shape"] = array_state((2**40, 2**40), kind("f8"), b"x" * 8)
HOSTILE["lying type"] = array_state((1,), kind("f8"), b"x" * 4)
HOSTILE["structured"] = array_state((1,), kind("V16"), b"x" * 16)
HOSTILE["array of addresses"] = array_state((1,), kind("O8"), struct.pack("<Q", 0xDEAD))
HOSTILE["negative shape"] = array_state((-1,), kind("f8"), b"")
HOSTILE["huge text"] = array_state((0,), kind("U99999999999"), b"")


def doubled(depth: int, leaf: bytes = b"]") -> bytes:
    """A list that holds another one twice, and so on: few bytes, and endless as a tree."""
    for level in range(depth):
        at = struct.pack("<I", level)
        leaf += b"r" + at + b"0](j" + at + b"j" + at + b"e"
    return leaf


HOSTILE["doubled lists"] = b"\x80\x02" + doubled(40) + b"."
HOSTILE["doubled key"] = b"\x80\x02}" + doubled(40) + b"s."
HOSTILE["doubled values"] = b"\x80\x02}K\x01" + doubled(40) + b"s."
HOSTILE["list of itself"] = b"\x80\x02]q\x00h\x00a."
HOSTILE["dict of itself"] = b"\x80\x02}q\x00K\x01h\x00s."
HOSTILE["long text, often"] = b"\x80\x02" + doubled(20, pickle.dumps("k" * 9999, 2)[2:-1]) + b"."


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_one_error(name: str) -> None:
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises((pickle.UnpicklingError, EOFError)) as caught:
        load_plain_pickle(HOSTILE[name])
    assert "\n" not in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024
    assert time.process_time() - start < 1
    assert not os.path.exists("/tmp/cupola-was-here")


def test_a_pickle_cannot_hide_methods_of_a_dict() -> None:
    hidden = b"ccollections\nOrderedDict\n)R}X\x05\x00\x00\x00itemsK\x05sb"
    read = load_plain_pickle(b"\x80\x02}K\x01" + hidden + b"s.")
    assert list(read[1].items()) == []
