"""Packed text: tokenizers, windows, and the reader of Debian's texts."""

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from cupola.cli.main import app
from cupola.data.text import END, PackedText, pack, read_texts, train_tokenizer, write_packed
from cupola.data.text_sources import chapters, read_documents
from cupola.errors import DataError
from language_toys import LINES

TOKENIZER = train_tokenizer(LINES, 300)


@given(st.text(alphabet=st.characters(blacklist_categories=["Cs"]), max_size=40))
def test_any_text_is_decoded_unchanged(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text).ids) == text


def test_special_tokens_have_blooms_ids() -> None:
    ids = [TOKENIZER.token_to_id(t) for t in ("<unk>", "<s>", "</s>", "<pad>")]
    assert ids == [0, 1, 2, 3]


def test_documents_are_joined_by_the_end_token() -> None:
    row = pack(LINES, TOKENIZER)
    assert (row == END).sum() == 2
    assert row[-1] == END
    assert row.dtype == np.uint16


def prepared(folder: Path) -> Path:
    write_packed([f"{n} {LINES[n % 2]}" for n in range(60)], folder, 300)
    return folder


def test_a_packed_folder(tmp_path: Path) -> None:
    about = json.loads((prepared(tmp_path) / "about.json").read_text())
    assert (about["train"]["documents"], about["val"]["documents"]) == (57, 3)
    assert about["val"]["tokens"] == len(np.load(tmp_path / "val.npy"))


def test_windows_tile_the_sequence_and_move_with_the_epoch(tmp_path: Path) -> None:
    train = PackedText(prepared(tmp_path), "train", length=8)
    first = train[1]["input_ids"].tolist()
    assert first == train.tokens[8:17].tolist()
    train.set_epoch(3)
    assert train[1]["input_ids"].tolist() == train.tokens[train.offset + 8 :][:9].tolist()
    assert train.offset > 0
    assert len(train[len(train) - 1]["input_ids"]) == 9
    held_out = PackedText(tmp_path, "val", length=8)
    held_out.set_epoch(3)
    assert held_out.offset == 0
    batch = held_out.collate([held_out[0], held_out[1]])
    assert batch["input_ids"].shape == batch["labels"].shape == (2, 9)


def test_attention_can_be_limited_to_documents(tmp_path: Path) -> None:
    data = PackedText(prepared(tmp_path), "train", 40, separate_documents=True)
    batch = data.collate([data[0], data[1]])
    ids, documents = batch["input_ids"], batch["documents"]
    assert documents.shape == ids.shape and documents[:, 0].tolist() == [0, 0]
    borders = documents.diff(dim=1) == 1
    assert borders.any() and (borders == (ids[:, :-1] == END)).all()
    assert "documents" not in PackedText(tmp_path, "train", 40).collate([data[0]])


def test_missing_texts_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="write it with `cupola data text`"):
        PackedText(tmp_path, "train", 8)
    with pytest.raises(DataError, match="are fewer than two windows of 100000"):
        PackedText(prepared(tmp_path), "train", 100000)
    with pytest.raises(DataError, match="too few to hold some out"):
        write_packed(LINES[:1], tmp_path, 300)
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="is not UTF-8 text"):
        read_texts([tmp_path / "bad.txt"])


def test_empty_lines_separate_documents(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n\n \nthree\n")
    assert read_texts([tmp_path / "a.txt"]) == ["one\ntwo", "three"]


def test_the_command_packs_text_files(tmp_path: Path) -> None:
    source = tmp_path / "mine.txt"
    source.write_text("\n\n".join(f"{n} {LINES[n % 2]}" for n in range(60)))
    command = ["data", "text", str(tmp_path / "out"), "--file", str(source), "--vocabulary", "300"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "train: 57 documents" in done.output
    assert len(PackedText(tmp_path / "out", "train", 16)) > 10


def r_database(lines: list[str]) -> bytes:
    """The content of R's lazy-load database for one character vector."""
    raw = b"X\n" + struct.pack(">IIII", 3, 0x40201, 0x30500, 5) + b"UTF-8"
    raw += struct.pack(">II", 16, len(lines))
    for line in lines:
        raw += struct.pack(">Ii", 0x40009, len(line.encode())) + line.encode()
    return struct.pack(">I", len(raw)) + zlib.compress(raw)


def test_chapters_of_an_r_database() -> None:
    long = ["word " * 20] * 8
    novel = ["EMMA", "", "CHAPTER I", "", *long, "", "Next  paragraph.", "CHAPTER II", "short"]
    (body,) = chapters(r_database(novel) + r_database(["X"]))
    assert body.splitlines()[1] == "Next paragraph."
    with pytest.raises(DataError, match="no longer stored as R strings"):
        broken = r_database(["a"])
        raw = zlib.decompress(broken[4:]).replace(struct.pack(">I", 0x40009), b"\0\0\0\x0d")
        list(chapters(b"\0\0\0\0" + zlib.compress(raw)))


def test_only_classical_pieces_are_kept(tmp_path: Path) -> None:
    data = tmp_path / "usr/lib/R/site-library/janeaustenr/data"
    data.mkdir(parents=True)
    (data / "Rdata.rdb").write_bytes(r_database(["CHAPTER I", "A " * 400]))
    folder = tmp_path / "usr/share/games/fortunes"
    folder.mkdir(parents=True)
    for name in ("tang300", "song100"):
        (folder / name).write_text("\x1b[32m《静夜思》\x1b[m\n作者：李白\n床前明月光\n%\n")
    pieces = [
        "学而时习之。\n  --《论语》",
        "gdb\n  -- Debian 参考手册",
        "花间一壶酒\n -- 李白《月下独酌》",
    ]
    (folder / "chinese").write_text("\n%\n".join(pieces))
    texts = [d.text for d in read_documents(tmp_path) if d.language == "zh"]
    assert texts[0] == "《静夜思》\n李白\n床前明月光"
    assert len(texts) == 4
    assert not any("gdb" in text for text in texts)


def test_the_recorded_request_asks_for_the_held_out_part(tmp_path: Path) -> None:
    PackedText(prepared(tmp_path), "val", 8).write_examples(tmp_path / "example")
    request = json.loads((tmp_path / "example" / "request.json").read_text("utf-8"))
    (prompt,) = request["inputs"][0]["data"]
    assert LINES[0][:8] in prompt or LINES[1][:8] in prompt
    assert request["parameters"]["max_tokens"] == 16
