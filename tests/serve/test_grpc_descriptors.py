"""The descriptors of the protocols: compiled from the .proto files, with Triton's field numbers."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cupola.serve.grpc.message_reader import MessageReader
from cupola.serve.grpc.messages import message, pool
from cupola.serve.http.messages import HTTPError
from cupola.serve.runners.grpc_codec import build_message
from cupola.serve.settings.settings import Settings
from lazy import LazyModule

service = LazyModule("tritonclient.grpc.service_pb2")
config = LazyModule("tritonclient.grpc.model_config_pb2")
SCRIPT = Path(__file__).parent.parent.parent / "scripts/protocols.py"


def test_the_descriptors_are_those_of_the_files(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("protocols", SCRIPT)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.compile_to(tmp_path / "made")
    committed = (script.FOLDER / "protocols.binpb").read_bytes()
    assert (tmp_path / "made").read_bytes() == committed, "run python scripts/protocols.py"


def differences(ours: Any, theirs: Any) -> list[str]:
    """Fields whose number or type differs from Triton's, which has more of them."""
    found = []
    for field in ours.fields:
        other = theirs.fields_by_name.get(field.name)
        if other is None or (other.number, other.type) != (field.number, field.type):
            found.append(f"{ours.full_name}.{field.name}")
    for nested in ours.nested_types:
        found += differences(nested, theirs.nested_types_by_name[nested.name])
    return found


def test_field_numbers_are_tritons() -> None:
    files = [service.DESCRIPTOR, config.DESCRIPTOR]
    for name, ours in pool().FindFileByName("open_inference.proto").message_types_by_name.items():
        theirs = next(
            file.message_types_by_name[name] for file in files if name in file.message_types_by_name
        )
        assert differences(ours, theirs) == []


def test_methods_are_tritons_and_all_are_served() -> None:
    from cupola.serve.protocols.grpc_methods import METHODS

    ours = pool().FindServiceByName("inference.GRPCInferenceService")
    theirs = service.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    for method in ours.methods:
        assert f"/{ours.full_name}/{method.name}" in METHODS
        other = theirs.methods_by_name[method.name]
        assert other.input_type.full_name == method.input_type.full_name
        assert other.output_type.full_name == method.output_type.full_name


def framed(data: bytes, flag: int = 0) -> bytes:
    return bytes([flag]) + len(data).to_bytes(4, "big") + data


@pytest.mark.parametrize("step", [1, 3, 7, 1000])
def test_messages_from_any_split(tmp_path: Path, step: int) -> None:
    reader = MessageReader(Settings(shm_threshold=50), lambda: tmp_path / "spooled")
    sent = [b"", b"a" * 20, b"b" * 49, b"c" * 80, b"d"]
    data = b"".join(framed(one) for one in sent)
    found = []
    for at in range(0, len(data), step):
        for one in reader.feed(data[at : at + step]):
            found.append(one.spooled.read_bytes() if one.spooled else bytes(one.body))
            one.release()
    assert found == sent and not reader.partial and not list(tmp_path.iterdir())


def test_messages_that_are_refused(tmp_path: Path) -> None:
    reader = MessageReader(Settings(max_body=100), lambda: tmp_path / "spooled")
    with pytest.raises(HTTPError, match="at most 100"):
        reader.feed(framed(bytes(101)))
    reader = MessageReader(Settings(), lambda: tmp_path / "spooled")
    with pytest.raises(HTTPError, match="invalid prefix"):
        reader.feed(b"\x02" + bytes(10))
    reader = MessageReader(Settings(shm_threshold=10), lambda: tmp_path / "no" / "spooled")
    with pytest.raises(HTTPError, match="no space"):
        reader.feed(framed(bytes(20))[:8])
    reader = MessageReader(Settings(shm_threshold=10), lambda: tmp_path / "spooled")
    assert reader.feed(framed(bytes(20))[:12]) == [] and (tmp_path / "spooled").exists()
    reader.discard()
    assert not list(tmp_path.iterdir())


@given(
    st.text(max_size=200),
    st.dictionaries(st.text(min_size=1), st.lists(st.integers(0, 300), max_size=3), max_size=4),
)
def test_an_answer_is_a_message(request_id: str, shapes: dict[str, list[int]]) -> None:
    arrays = {name: np.zeros([n % 4 for n in shape], np.int32) for name, shape in shapes.items()}
    data = build_message(request_id, dict.fromkeys(arrays, True), arrays, ("model", "1"))
    found = message("ModelInferResponse").FromString(data)
    assert (found.model_name, found.model_version, found.id) == ("model", "1", request_id)
    assert [output.name for output in found.outputs] == list(arrays)
    for output, raw, array in zip(
        found.outputs, found.raw_output_contents, arrays.values(), strict=True
    ):
        assert (output.datatype, tuple(output.shape)) == ("INT32", array.shape)
        assert raw == array.tobytes()
    large = np.zeros((1, 70_000), np.float16)
    found = message("ModelInferResponse").FromString(
        build_message(None, {"y": True}, {"y": large}, ("m", "2"))
    )
    assert list(found.outputs[0].shape) == [1, 70_000] and found.outputs[0].datatype == "FP16"
    assert len(found.raw_output_contents[0]) == 140_000


def test_messages_have_a_pool_of_their_own() -> None:
    """In one process with Triton's client, whose messages have the same names."""
    assert message("ModelInferRequest") is not service.ModelInferRequest
    made = message("ModelInferRequest")(model_name="a")
    assert service.ModelInferRequest.FromString(made.SerializeToString()).model_name == "a"
