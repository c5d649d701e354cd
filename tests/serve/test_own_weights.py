"""Runners map the server's own copy of the weights, never the operator's file."""

import io
import json
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from serve_harness import Running, output, until

from cupola.bundles import Bundle
from cupola.errors import BundleError
from cupola.serve.runners import own_weights as module
from cupola.serve.runners.own_weights import own_weights
from cupola.serve.runners.warming import copy_weights

SHIPPED = Bundle.load("detr-digits").path


def generation(home: Path, number: int) -> Path:
    folder = home / f"g{number}/sources"
    folder.parent.mkdir(parents=True)
    return folder


def test_the_copy_does_not_change_with_the_file(tmp_path: Path) -> None:
    source = tmp_path / "weights.safetensors"
    source.write_bytes(b"one")
    first = own_weights(source, generation(tmp_path, 1), "m-1")
    assert first is not None and first.parent.parent.stat().st_mode & 0o777 == 0o700
    with source.open("r+b") as file:
        file.write(b"two")
    assert own_weights(source, tmp_path / "g1/sources", "m-1") == first
    assert first.read_bytes() == b"one"
    second = own_weights(source, generation(tmp_path, 2), "m-1")
    assert second is not None and second.read_bytes() == b"two"


def test_a_reload_links_what_has_the_same_content(tmp_path: Path) -> None:
    source = tmp_path / "weights.safetensors"
    source.write_bytes(b"one")
    first = own_weights(source, generation(tmp_path, 1), "m-1")
    times = source.stat()
    source.write_bytes(b"two")  # the hash decides, not the time or the size
    os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
    second = own_weights(source, generation(tmp_path, 2), "m-1")
    source.write_bytes(b"one")
    third = own_weights(source, generation(tmp_path, 3), "m-1")
    assert first and second and third
    assert first.stat().st_ino == third.stat().st_ino != second.stat().st_ino
    shutil.rmtree(tmp_path / "g1")
    assert third.read_bytes() == b"one"


def test_a_folder_is_copied_with_its_index(tmp_path: Path) -> None:
    source = tmp_path / "model"
    source.mkdir()
    for name in ("a.safetensors", "b.safetensors", "model.safetensors.index.json", "README.md"):
        (source / name).write_text(name)
    own = own_weights(source, generation(tmp_path, 1), "m-1")
    assert own is not None
    found = {path.name for path in own.iterdir()}
    assert found == {
        "a.safetensors",
        "b.safetensors",
        "model.safetensors.index.json",
        module.HASHES,
    }


def test_a_file_that_is_being_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "weights.safetensors"
    source.write_bytes(b"half")
    states = iter([(4, 1, 1), (8, 2, 2)])
    monkeypatch.setattr(module, "_state", lambda fd: next(states))
    with pytest.raises(BundleError, match="changed while it was copied; reload once it is"):
        own_weights(source, generation(tmp_path, 1), "m-1")
    assert [path.name for path in (tmp_path / "g1/sources").iterdir()] == ["m-1.lock"]


def test_without_room_there_is_no_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> str:
        raise OSError(28, "No space left on device")

    source = tmp_path / "weights.safetensors"
    source.write_bytes(b"one")
    monkeypatch.setattr(module, "_take", full)
    assert own_weights(source, generation(tmp_path, 1), "m-1") is None


def test_weights_are_copied_while_the_zygote_imports(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (broken := tmp_path / "broken").mkdir()
    plans = [
        SimpleNamespace(path=str(path), file_name=name)
        for path, name in ((broken, "broken-1"), (SHIPPED, "digits-1"))
    ]
    copy_weights(SimpleNamespace(plans=plans, home=tmp_path / "home"))  # type: ignore[arg-type]
    folder = tmp_path / "home/sources"
    assert [each.name for each in folder.iterdir() if each.is_dir()] == ["digits-1"]
    copied = folder / "digits-1/weights.safetensors"
    assert copied.read_bytes() == Bundle.load("detr-digits").weights_path.read_bytes()


def test_private_weights_are_not_mapped() -> None:
    from cupola.runtime.predictor import Predictor
    from cupola.runtime.recorded_example import differing
    from cupola.serve.runners.shared_weights import make_private, mapped_bytes

    predictor = Predictor.load(str(SHIPPED))
    assert mapped_bytes(predictor.model) > 0
    make_private(predictor.model)
    assert mapped_bytes(predictor.model) == 0
    assert differing(predictor, SHIPPED) == []


@pytest.mark.slow
@pytest.mark.processes
def test_a_file_replaced_in_place_changes_nothing_until_the_reload(tmp_path: Path) -> None:
    bundle = tmp_path / "detr-digits"
    shutil.copytree(SHIPPED, bundle)
    weights = bundle / "weights.safetensors"
    server = Running(
        tmp_path / "server", models=[str(bundle)], plugins=[], compute_threads=1, admin="on"
    )
    server.start()
    try:
        server.wait_ready()
        maps = Path(f"/proc/{server.runner_pid()}/maps").read_text()
        assert str(weights) not in maps and "/g1/" in maps
        before = boxes(server, bundle)
        good = weights.read_bytes()
        with weights.open("r+b") as file:  # in place: zeros, then only half of it
            file.seek(len(good) // 2)
            file.write(bytes(len(good) // 2))
            file.truncate(len(good) // 2)
        assert boxes(server, bundle) == before
        os.kill(server.runner_pid(), signal.SIGKILL)
        until(lambda: boxes(server, bundle) == before)  # a respawned runner has the copy too
        home = server.runtime / str(server.pid) / "g1"
        kept = {path.name for path in home.glob("*/*detr-digits*")}
        load = "/v2/repository/models/detr-digits/load"
        ask = json.dumps({"parameters": {"bundle": str(bundle)}})
        assert server.ask("POST", load, ask)[0] == 400  # a load reads the new file
        until(lambda: {path.name for path in home.glob("*/*detr-digits*")} == kept)
        server.signal(signal.SIGHUP)
        until(lambda: "generation 2 failed" in server.log(), 60)
        assert boxes(server, bundle) == before
        weights.write_bytes(good)
        server.reload()
        assert boxes(server, bundle) == before
    finally:
        server.stop()


def boxes(server: Running, bundle: Path) -> Any:
    request = io.BytesIO((bundle / "example/request.json").read_bytes())
    status, _, body = server.ask("POST", "/v2/models/detr-digits/infer", request.read())
    assert status == 200, body
    return output(json.loads(body), "boxes")
