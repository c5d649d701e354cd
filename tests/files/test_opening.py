"""One door for untrusted files: inside their folder, regular, bounded, one clear line."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cupola.data.coco import CocoDataset
from cupola.errors import CheckpointError, CupolaError, DataError, InputError
from cupola.files import locate, open_regular, read_json, read_text
from cupola.files.images import read_image
from cupola.weights import read_checkpoint


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret", "a/../../secret", "a\0b"])
def test_names_that_leave_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"leads out of|a control character"):
        locate(tmp_path / "root", name)


def test_links_that_leave_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret").write_text("x")
    (root / "file").symlink_to(tmp_path / "secret")
    (root / "folder").symlink_to(tmp_path)
    (root / "loop").symlink_to("loop")
    (root / "inside").symlink_to("folder2")
    for name in ("file", "folder/secret"):
        with pytest.raises(DataError, match="outside its folder; point"):
            locate(root, name)
    assert locate(root, "inside/x.jpg") == root / "inside/x.jpg"
    monkeypatch.setenv("CUPOLA_FOLLOW_LINKS", "1")
    assert locate(root, "file") == root / "file"


def test_links_of_the_hub_cache(tmp_path: Path) -> None:
    """A snapshot holds links to the blobs of its own repository."""
    for repo in ("models--a--b", "models--c--d"):
        (tmp_path / repo / "blobs").mkdir(parents=True)
        (tmp_path / repo / "blobs" / "1f").write_text("x")
    example = tmp_path / "models--a--b/snapshots/9c/example"
    example.mkdir(parents=True)
    (example / "own.png").symlink_to("../../../blobs/1f")
    (example / "other.png").symlink_to(tmp_path / "models--c--d/blobs/1f")
    assert locate(example, "own.png").read_text() == "x"
    with pytest.raises(DataError, match="outside its folder"):
        locate(example, "other.png")


READERS: dict[str, Any] = {
    "image": (read_image, InputError),
    "json": (read_json, DataError),
    "text": (read_text, DataError),
    "checkpoint": (read_checkpoint, CheckpointError),
    "safetensors": (lambda path: read_checkpoint(path), CheckpointError),
}


@pytest.mark.parametrize("reader", READERS)
def test_pipes_devices_and_folders_never_hang(tmp_path: Path, reader: str) -> None:
    read, error = READERS[reader]
    os.mkfifo(tmp_path / "pipe.nc")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    for name, said in (("pipe.nc", "a pipe"), ("zero.jpg", "a device")):
        with pytest.raises(error, match=f"{name}: is {said}, not a regular file"):
            read(tmp_path / name)


def test_sizes_are_limited(tmp_path: Path) -> None:
    with (tmp_path / "sparse.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(DataError, match="more than the"):
        read_json(tmp_path / "sparse.json")
    with pytest.raises(DataError, match="has 1099511627776 bytes, more than the 10 accepted"):
        open_regular(tmp_path / "sparse.json", 10)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[" * 200_000, "nested too deeply"),
        (b"9" * 5000, "not usable JSON"),
        (b"{", "line 1, column 2"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_json_of_any_kind_is_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(DataError, match=rf"x\.json: .*{said}") as caught:
        read_json(tmp_path / "x.json")
    assert "\n" not in str(caught.value)


def coco(folder: Path, file_name: str) -> CocoDataset:
    content = {
        "images": [{"id": 1, "file_name": file_name, "width": 4, "height": 4}],
        "annotations": [],
        "categories": [{"id": 1, "name": "a"}],
    }
    (folder / "a.json").write_text(json.dumps(content))
    return CocoDataset(
        data_root=str(folder), ann_file="a.json", data_prefix={"img": ""}, test_mode=True
    )


def test_a_coco_file_reads_nothing_outside_its_folder(tmp_path: Path) -> None:
    with pytest.raises(CupolaError, match="leads out of"):
        coco(tmp_path, "/etc/passwd")[0]


def test_postscript_in_a_coco_folder_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "gs"
    tool.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "x.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF")
    with pytest.raises(DataError, match=r"x\.jpg: not an image"):
        coco(tmp_path, "x.jpg")[0]
    assert not (tmp_path / "started").exists()


def test_a_message_that_quotes_a_file_has_an_end() -> None:
    text = str(DataError("a.json: " + "x" * 10**6 + " is missing"))
    assert len(text) <= 4000 and text.startswith("a.json: xxx") and text.endswith("xx is missing")
