"""What decoding costs is known before a request is admitted."""

import base64
import io
import json
import os
import random
import re
import signal
import socket
import textwrap
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, features
from serve_harness import Running, read_answer, until

from cupola.serve.http.messages import HTTPError, Request
from cupola.serve.ipc.frames import INFER, Frame
from cupola.serve.protocols.image_cost import cost_of, pixels_at

MODEL = {"inputs": [{"datatype": "BYTES"}], "max_image_pixels": 20_000_000, "queue_limit": 256}


def image_file(form: str, width: int, height: int, mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (width, height)).save(file, form, **options)
    return file.getvalue()


def exif_with_thumbnail() -> bytes:
    small = image_file("JPEG", 16, 16)
    return b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0" + small


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("PNG", {}), ("PNG", {"mode": "1"}), ("JPEG", {}), ("JPEG", {"progressive": True}),
        ("JPEG", {"exif": exif_with_thumbnail()}), ("GIF", {"mode": "P"}), ("BMP", {}),
        ("WEBP", {}), ("WEBP", {"lossless": True}), ("WEBP", {"mode": "RGBA", "exif": b"x"}),
        ("TIFF", {}), ("TIFF", {"compression": "tiff_deflate"}), ("TIFF", {"big_tiff": False}),
        ("PPM", {}), ("AVIF", {}),
    ],
)  # fmt: skip
def test_sizes_are_read_from_headers(form: str, options: dict[str, Any]) -> None:
    if form == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    data = image_file(form, 123, 77, **options)
    assert pixels_at(data) == 123 * 77
    assert pixels_at(b"....." + data, 5) == 123 * 77
    chance = random.Random(0)
    for _ in range(300):  # whatever is wrong with it, no exception
        broken = bytearray(data[: chance.randrange(len(data))])
        for _ in range(min(3, len(broken))):
            broken[chance.randrange(min(60, len(broken)))] = chance.randrange(256)
        assert pixels_at(bytes(broken)) >= 0


def cost(body: bytes, body_format: str = "image", json_size: int = -1, **model: Any) -> int:
    request = Request("POST", "/", "", {}, "", 0.0, "", body)
    extra = {} if body_format == "v2" else {"format": body_format}
    return cost_of(request, Frame(INFER, 0, body, extra, json_size), MODEL | model)


def multipart(files: list[bytes]) -> bytes:
    head = b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
    return b"".join(head + file + b"\r\n" for file in files) + b"--b--\r\n"


def binary(files: list[bytes]) -> tuple[bytes, int]:
    data = b"".join(len(file).to_bytes(4, "little") + file for file in files)
    spec = {"name": "image", "datatype": "BYTES", "shape": [len(files)]}
    first = {"name": "a", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}}
    spec["parameters"] = {"binary_data_size": len(data)}
    head = json.dumps({"inputs": [first, {"name": "b", "data": [1]}, spec]}).encode()
    return head + b"\0\0\0\0" + data, len(head)


def test_a_request_counts_for_its_pixels() -> None:
    small, large = image_file("PNG", 100, 100), image_file("PNG", 5000, 4000)
    assert len(large) < 100_000
    assert cost(small) == 1 and cost(large) == 21
    assert cost(large, queue_limit=4) == 4  # so that it can be admitted at all
    assert cost(multipart([large, small, large]), "multipart") == 41
    body, json_size = binary([large, small, large])
    assert cost(body, "v2", json_size) == 41
    assert cost(b'{"inputs": 3}', "v2", 13) == 1
    assert cost(large, inputs=[{"datatype": "FP32"}]) == 1
    with pytest.raises(HTTPError, match="more than 160000000 pixels in all"):
        cost(multipart([large] * 9), "multipart")


def in_json(texts: list[str], **form: Any) -> bytes:
    spec = {"name": "image", "datatype": "BYTES", "shape": [len(texts)], "data": texts}
    return json.dumps({"inputs": [{"name": "a", "data": [1] * 90}, spec]}, **form).encode()


def long_jpeg(width: int, height: int) -> bytes:
    return image_file("JPEG", width, height, comment=b"x" * 60_000, icc_profile=b"y" * 40_000)


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,", " DATA:;BASE64,\n"])
@pytest.mark.parametrize("form", ["PNG", "JPEG", "late", "WEBP", "GIF", "BMP", "TIFF"])
def test_base64_text_counts_like_the_file(form: str, prefix: str) -> None:
    make = (lambda *size: long_jpeg(*size)) if form == "late" else partial(image_file, form)
    file = make(1600, 1250)
    plain = base64.b64encode(file).decode()
    texts = [plain, base64.urlsafe_b64encode(file).decode(), plain.rstrip("="),
             "\n".join(textwrap.wrap(plain[:3000], 76)) + plain[3000:]]  # fmt: skip
    for text in texts:
        body = in_json([prefix + text])
        assert cost(body, "v2") == 3
        assert cost(body.replace(b"/", b"\\/"), "v2") == 3  # as PHP writes it
    escaped = body.replace(
        b'"' + (prefix + text)[:1].encode(), b'"\\u%04x' % ord((prefix + text)[0])
    )
    assert escaped == body or cost(escaped, "v2") == 3
    assert cost(in_json([prefix + plain] * 4, indent=90), "v2") == 9
    body = in_json([prefix + plain])
    assert cost(body + b"\1\0\0\0x", "v2", len(body)) == 3  # before binary tensors
    with pytest.raises(HTTPError, match="pixels in all"):
        cost(in_json([prefix + plain] * 3), "v2", max_image_pixels=500_000)


def test_other_json_counts_once() -> None:
    image = base64.b64encode(image_file("PNG", 2000, 1000)).decode()
    texts = ["", "a" * 500, "\\" * 300, '"' * 300, "\u00e9" * 200, "==" * 99, "," + "-_" * 99]
    assert cost(in_json(texts), "v2") == cost(b"", "v2") == cost(b'{"', "v2") == 1
    assert cost(in_json([*texts, image]), "v2") == 3
    assert cost(b'"' * 2**20 + in_json([image]), "v2") == 1  # not looked for so far back
    chance = random.Random(0)
    for _ in range(300):  # whatever is wrong with it, no exception
        body = bytearray(in_json([*texts, image[:200]]))
        for _ in range(9):
            body[chance.randrange(len(body))] = chance.choice(b'"\\u,\0\xff/A=')
        assert cost(bytes(body), "v2", max_image_pixels=2**70) >= 1


def test_large_images_fill_the_queue(tmp_path: Path) -> None:
    """Two PNG files of 6 kB wait for 0.8 s of decoding, so that few more may wait behind them."""
    server = Running(tmp_path, queue_limit=6)
    server.start()
    server.wait_ready()
    large, small = image_file("PNG", 2000, 1000), image_file("PNG", 64, 64)

    def send(file: bytes) -> socket.socket:
        client = server.raw()
        head = f"POST /v2/models/echo/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(file)}"
        client.sendall(head.encode() + b"\r\nContent-Type: image/png\r\n\r\n" + file)
        return client

    runner = server.runner_pid()
    os.kill(runner, signal.SIGSTOP)
    try:
        waiting = [send(large), send(large)]  # each counts three
        pattern = r'cupola_queue_depth\{model="echo".*\} 6'
        until(lambda: re.search(pattern, server.get("/metrics")[1].decode()), what=pattern)
        with send(small) as refused:
            assert read_answer(refused)[0] == 429
        os.kill(runner, signal.SIGCONT)
        for client in waiting:
            assert read_answer(client)[0] == 200
            client.close()
        with send(small) as client:
            assert read_answer(client)[0] == 200
    finally:
        server.stop()
