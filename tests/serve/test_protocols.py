"""The protocols, with the tritonclient and openai packages as clients."""

import io
import json
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from serve_harness import Running, infer_body, output

from lazy import LazyModule

httpx = LazyModule("httpx")
openai = LazyModule("openai")
triton = LazyModule("tritonclient.http")
pytestmark = pytest.mark.processes


@pytest.fixture
def client(shared: Running):
    made = triton.InferenceServerClient(f"127.0.0.1:{shared.port}")
    yield made
    made.close()


def x_input(values, binary: bool = True):
    data = np.asarray(values, dtype=np.float32)
    made = triton.InferInput("x", list(data.shape), "FP32")
    made.set_data_from_numpy(data, binary_data=binary)
    return made


def test_triton_health_and_metadata(client) -> None:
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("echo")
    assert client.get_server_metadata()["name"] == "cupola"
    assert client.get_model_metadata("echo")["versions"] == ["1", "2"]
    assert client.get_model_config("echo")["input"][0]["data_type"] == "TYPE_FP32"
    names = {(m["name"], m["version"]) for m in client.get_model_repository_index()}
    assert names == {("echo", "1"), ("echo", "2"), ("speaker", "1")}


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_triton_infer(client, binary: bool, compression: str | None) -> None:
    values = np.linspace(0, 1, 2000, dtype=np.float32)
    answer = client.infer(
        "echo",
        [x_input(values, binary)],
        outputs=[triton.InferRequestedOutput("y", binary_data=binary)],
        request_id="seven",
        request_compression_algorithm=compression,
        response_compression_algorithm=compression,
    )
    np.testing.assert_array_equal(answer.as_numpy("y"), values + 1)  # version 2 is the newest
    assert answer.get_response()["id"] == "seven"
    assert answer.get_response()["model_version"] == "2"


def test_triton_all_outputs_binary_and_bytes(client) -> None:
    text = triton.InferInput("text", [2], "BYTES")
    text.set_data_from_numpy(np.array([b"\xff\x00raw", b""], dtype=object))
    answer = client.infer("echo", [text], model_version="1")
    assert answer.as_numpy("text").tolist() == [b"\xff\x00raw", b""]


def test_triton_statistics(client) -> None:
    before = client.get_inference_statistics("echo", "1")["model_stats"][0]["inference_count"]
    client.infer("echo", [x_input([1.0])], model_version="1")
    after = client.get_inference_statistics("echo", "1")["model_stats"][0]
    assert after["inference_count"] == before + 1
    assert after["inference_stats"]["success"]["ns"] > 0
    assert len(client.get_inference_statistics()["model_stats"]) == 3


def test_triton_errors(client) -> None:
    for call, text in [
        (lambda: client.infer("ecko", [x_input([1.0])]), "did you mean 'echo'"),
        (lambda: client.infer("echo", [x_input([[1.0]])]), "expected shape"),
        (lambda: client.infer("echo", [x_input([1.0])], model_version="9"), "no version '9'"),
    ]:
        with pytest.raises(triton.InferenceServerException, match=text):
            call()


def test_triton_load_and_unload(client, shared: Running) -> None:
    bundle = shared.folder / "bundles" / "echo2"
    folder = json.dumps(str(bundle))
    status, _, _ = shared.ask(
        "POST", "/v2/repository/models/third/load", f'{{"parameters": {{"bundle": {folder}}}}}'
    )
    assert status == 200
    assert client.is_model_ready("third")
    assert client.infer("third", [x_input([1.0])]).as_numpy("y").tolist() == [2.0]
    client.unload_model("third")
    with pytest.raises(triton.InferenceServerException, match="unknown model"):
        client.infer("third", [x_input([1.0])])
    with pytest.raises(triton.InferenceServerException, match="neither a bundle folder nor"):
        client.load_model("nowhere")


@pytest.mark.parametrize(
    ("path", "document", "text"),
    [
        ("index", "{", "not valid JSON"),
        ("models/echo/unload", "{", "not valid JSON"),
        ("models/echo/unload", '{"parameters": 3}', "`parameters` must be an object"),
    ],
)
def test_bad_repository_requests_say_what_is_wrong(
    shared: Running, path: str, document: str, text: str
) -> None:
    status, _, body = shared.ask("POST", f"/v2/repository/{path}", document)
    assert status == 400 and text in json.loads(body)["error"]


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ("{", "not valid JSON"),
        ("{}", "list `inputs`"),
        ('{"inputs": [3]}', "with a `name`"),
        ('{"inputs": [{"name": "x", "datatype": "FP33", "shape": [1], "data": [1]}]}', "FP32"),
        ('{"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "data": [1]}]}', "hold 1"),
        ('{"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1], "data": []}]}', "sizes"),
        ('{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1]}]}', "neither"),
        ('{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": ["1"]}]}', "type"),
        ('{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [NaN]}]}', "JSON"),
        (
            '{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "parameters":'
            ' {"shared_memory_region": "a"}}]}',
            "shared memory",
        ),
        (
            '{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "parameters":'
            ' {"binary_data_size": 400}}]}',
            "binary_data_size",
        ),
        ('{"inputs": [], "outputs": [{"name": "y", "parameters": [1]}]}', "must be an object"),
        (
            '{"inputs": [], "outputs": [{"name": "y", "parameters": {"classification": 2}}]}',
            "classification is not supported",
        ),
    ],
)
def test_bad_requests_say_what_is_wrong(shared: Running, document: str, text: str) -> None:
    status, _, body = shared.ask("POST", "/v2/models/echo/infer", document)
    assert status == 400 and text in json.loads(body)["error"], body


def test_body_formats(shared: Running, tmp_path) -> None:
    np.save(tmp_path / "x.npy", np.arange(3, dtype=np.float32))
    npy = (tmp_path / "x.npy").read_bytes()
    url = f"http://127.0.0.1:{shared.port}/v2/models/echo/versions/1/infer"
    assert output(httpx.post(url, content=npy).json(), "y") == [0, 1, 2]
    files = {"x": ("x.npy", npy), "text": ("t", b"hello")}
    answer = httpx.post(url, files=files, data={"do": "none"}).json()
    assert output(answer, "text") == ["hello"] and output(answer, "y") == [0, 1, 2]
    image = httpx.post(url, content=b"\x89PNG....", headers={"Content-Type": "image/png"})
    assert output(image.json(), "text")[0].startswith("\ufffdPNG")


@pytest.mark.parametrize(
    "header",
    ["{'descr': '<f4', 'fortran_order': False, Mshape': (1,t, }", "{'descr': 'O'}", "-" * 9000,
     "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999,)}"],
)  # fmt: skip
def test_a_malformed_npy_body(shared: Running, header: str) -> None:
    data = b"\x93NUMPY\x01\0" + len(header).to_bytes(2, "little") + header.encode()
    status, _, body = shared.ask("POST", "/v2/models/echo/infer", data)
    assert status == 400 and "not a .npy array" in json.loads(body)["error"], body
    archive = io.BytesIO()
    np.savez(archive, x=np.zeros(3))
    kind = {"Content-Type": "application/x-npy"}
    status, _, body = shared.ask("POST", "/v2/models/echo/infer", archive.getvalue(), kind)
    assert status == 400 and "an archive of arrays" in json.loads(body)["error"], body


def test_chunked_and_large_bodies(shared: Running) -> None:
    values = np.random.default_rng(0).normal(size=600_000).astype(np.float32)  # 2.4 MB: spooled
    head = json.dumps(
        {
            "inputs": [
                {"name": "x", "datatype": "FP32", "shape": [len(values)],
                 "parameters": {"binary_data_size": values.nbytes}}
            ],
            "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
        }
    ).encode()  # fmt: skip
    url = f"http://127.0.0.1:{shared.port}/v2/models/echo/versions/1/infer"
    whole = head + values.tobytes()
    pieces = (whole[at : at + 100_000] for at in range(0, len(whole), 100_000))
    headers = {"Inference-Header-Content-Length": str(len(head))}
    for content in (whole, pieces):
        answer = httpx.post(url, content=content, headers=headers)
        assert answer.status_code == 200, answer.text
        size = int(answer.headers["Inference-Header-Content-Length"])
        np.testing.assert_array_equal(np.frombuffer(answer.content[size:], np.float32), values)
    spool = shared.runtime / str(shared.pid) / "g1" / "spool"
    assert not list(spool.iterdir())


def test_a_stream_as_events_and_as_lines(shared: Running) -> None:
    body = {
        "inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["say"]}],
        "parameters": {"max_tokens": 3},
    }
    url = f"http://127.0.0.1:{shared.port}/v2/models/speaker/generate_stream"
    events = httpx.post(url, json=body).text.strip().split("\n\n")
    assert [json.loads(e.removeprefix("data: "))["text"] for e in events] == ["w0 ", "w1 ", "w2 "]
    lines = httpx.post(url, json=body, headers={"Accept": "application/x-ndjson"}).text
    assert [json.loads(line)["final"] for line in lines.splitlines()] == [False, False, True]
    refused = httpx.post(url.replace("speaker", "echo"), content=infer_body())
    assert refused.status_code == 400 and "does not support streaming" in refused.json()["error"]


@pytest.fixture
def speaker(shared: Running):
    with openai.OpenAI(
        base_url=f"http://127.0.0.1:{shared.port}/v1", api_key="none", max_retries=0
    ) as made:
        yield made


def test_openai_models(speaker) -> None:
    assert [model.id for model in speaker.models.list()] == ["speaker"]


def test_openai_completion(speaker) -> None:
    answer = speaker.completions.create(model="speaker", prompt="a b", max_tokens=3, echo=True)
    assert answer.choices[0].text == "a bw0 w1 w2 " and answer.choices[0].finish_reason == "length"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, 3)
    several = speaker.completions.create(model="speaker", prompt=["a", "b"], n=2, max_tokens=1)
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]


def test_openai_stream(speaker) -> None:
    stream = speaker.completions.create(
        model="speaker", prompt="a", max_tokens=4, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    *chunks, last = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks) == "w0 w1 w2 w3 "
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * 3 + ["length"]
    assert last.choices == [] and last.usage.completion_tokens == 4


def test_openai_chat(speaker) -> None:
    messages = [{"role": "user", "content": "hello"}]
    answer = speaker.chat.completions.create(model="speaker", messages=messages, max_tokens=2)
    assert answer.choices[0].message.content == "w0 w1 "
    deltas = [
        chunk.choices[0].delta
        for chunk in speaker.chat.completions.create(
            model="speaker", messages=messages, max_tokens=2, stream=True
        )
    ]
    assert deltas[0].role == "assistant" and [d.content for d in deltas] == ["w0 ", "w1 "]


def test_openai_errors(speaker, shared: Running) -> None:
    with pytest.raises(openai.NotFoundError, match="unknown model 'speeker'"):
        speaker.completions.create(model="speeker", prompt="a")
    with pytest.raises(openai.BadRequestError, match="not a language model"):
        speaker.completions.create(model="echo", prompt="a")
    with pytest.raises(openai.BadRequestError, match="temperature"):
        speaker.completions.create(model="speaker", prompt="a", temperature=9)
    with pytest.raises(openai.APIError, match="told to fail"):
        list(speaker.completions.create(model="speaker", prompt="fail 2", stream=True))


def test_openai_a_request_that_fails_ends_alone(speaker) -> None:
    ask = {"model": "speaker", "stream": True}
    other = speaker.completions.create(prompt="a", max_tokens=2000, **ask)
    first = next(iter(other))
    with pytest.raises(openai.APIError, match="cannot decode its tokens"):
        list(speaker.completions.create(prompt="panic 2", **ask))
    with pytest.raises(openai.InternalServerError, match="cannot decode its tokens"):
        speaker.completions.create(model="speaker", prompt="panic 0")
    assert first.choices[0].text == "w0 " and len(list(other)) == 1999


def test_openai_a_broken_stream_continues_without_repeat_or_gap(speaker, shared: Running) -> None:
    mark = shared.folder / f"died-{time.monotonic_ns()}"
    chunks = list(
        speaker.completions.create(
            model="speaker", prompt=f"die 3 {mark}", max_tokens=6, stream=True
        )
    )
    assert mark.exists()  # the runner has died
    assert "".join(chunk.choices[0].text for chunk in chunks) == "w0 w1 w2 w3 w4 w5 "


def test_a_small_file_of_many_pixels_is_refused(tmp_path: Path) -> None:
    """A PNG file of 23 kB held a runner for six seconds."""
    models = [{"bundle": "detr-digits", "max_image_pixels": 1_000_000}]
    server = Running(tmp_path, models=models, plugins=[])
    server.start()
    server.wait_ready()
    try:
        for size, status in ((900, 200), (1100, 400)):
            file = io.BytesIO()
            Image.new("RGB", (size, size)).save(file, "PNG")
            kind = {"Content-Type": "image/png"}
            found = server.ask("POST", "/v2/models/detr-digits/infer", file.getvalue(), kind)
            assert found[0] == status
        assert b"1100 x 1100 pixels is more than the 1000000 accepted" in found[2]
    finally:
        server.stop()
