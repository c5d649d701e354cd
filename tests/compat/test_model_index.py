"""DetInferencer by the name of a published model, whose checkpoint is downloaded."""

import hashlib
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from cupola.bundles import Bundle
from cupola.bundles.downloads import cache
from cupola.bundles.model_index import find_published
from cupola.compat.mmdet import DetInferencer, init_detector
from cupola.config import Config
from cupola.errors import BundleError, ConfigError
from cupola.runtime.load import open_bundle
from cupola.weights.reading import read_checkpoint
from cupola_commands import run_cupola

SHIPPED = Bundle.load("detr-digits")
IMAGE = str(SHIPPED.path / "example/image.png")
FAMILY = """
Collections:
  - Name: DETR
Models:
  - Name: detr_digits
    Alias:
      - detr-d
    Config: configs/de%74r/detr_digits.py
    Weights: {url}
  - Name: detr_random
    Config: detr_digits.py
  - Name: detr_gone
    Config: ../../secret.py
"""


class Quiet(SimpleHTTPRequestHandler):
    """Files of a folder."""

    def log_message(self, *_: Any) -> None:
        """Silence."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A wheel's index in a folder, and the address of its checkpoint."""
    root = tmp_path_factory.mktemp("wheel")
    torch.save({"state_dict": read_checkpoint(SHIPPED.weights_path)}, root / "detr.pth")
    digest = hashlib.sha256((root / "detr.pth").read_bytes()).hexdigest()[:8]
    file = (root / "detr.pth").rename(root / f"detr_20200130-{digest}.pth")
    http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(root)))
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{http.server_address[1]}/{file.name}"
    folder = root / "mmdet/.mim/configs/detr"
    folder.mkdir(parents=True)
    resize = {"type": "Resize", "scale": (128, 128), "keep_ratio": False}
    pipeline = [{"type": "LoadImageFromFile"}, resize, {"type": "PackDetInputs"}]
    test = {"dataset": {"type": "CocoDataset", "pipeline": pipeline}}
    content = {"model": dict(SHIPPED.model_config), "test_dataloader": test}
    (folder / "detr_digits.py").write_text(Config(content).dump())
    (folder / "metafile.yml").write_text(FAMILY.format(url=url))
    bare = f"- Name: bare\n  Config: configs/detr/detr_digits.py\n  Weights: [{url}]\n"
    (folder / "bare.yml").write_text(bare)
    imports = (
        "Import:\n  - configs/detr/metafile.yml\n  - configs/detr/bare.yml\n  - ../../gone.yml\n"
    )
    (root / "mmdet/.mim/model-index.yml").write_text(imports)
    yield url, root
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.fixture
def online(
    site: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, Path]:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("CUPOLA_CONFIG_PATH", str(site[1]))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    return site


@pytest.mark.parametrize("name", ["detr_digits", "DETR-D", "bare"])
def test_a_published_name_brings_config_and_weights(online: tuple[str, Path], name: str) -> None:
    url, root = online
    assert find_published(name) == (root / "mmdet/.mim/configs/detr/detr_digits.py", url)
    (found,) = DetInferencer(name, device="cpu")(IMAGE)["predictions"]
    assert sum(score > 0.3 for score in found["scores"]) >= 2
    (kept,) = cache().iterdir()
    assert kept.name == url.rpartition("/")[2]


def test_weights_of_ones_own_and_none(
    online: tuple[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    DetInferencer("detr-d", SHIPPED.weights_path, device="cpu")
    assert not cache().exists()
    assert find_published("detr_random").weights is None
    DetInferencer("detr_random", device="cpu")
    assert "no checkpoint, so the weights are random" in caplog.text


def test_a_url_as_checkpoint(online: tuple[str, Path]) -> None:
    config = find_published("bare").config
    model = init_detector(config, online[0], device="cpu")
    state = read_checkpoint(SHIPPED.weights_path)
    assert all(torch.equal(own, state[key]) for key, own in model.model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("detr-digit", r"did you mean 'detr_digits'"),
        ("detr_gone", r"its config \.\./\.\./secret\.py is not in"),
        ("faster-rcnn", r"neither a config, a bundle, nor a model in .*model-index\.yml"),
    ],
)
def test_names_that_are_not_there(online: tuple[str, Path], name: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        DetInferencer(name)


def test_without_a_wheel(
    online: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mmdet").mkdir()
    monkeypatch.setenv("CUPOLA_CONFIG_PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="carries no index of models; put a folder with an unpac"):
        DetInferencer("rtmdet-s")
    shutil.rmtree(tmp_path / "mmdet")
    monkeypatch.setenv("CUPOLA_CONFIG_PATH", "")
    monkeypatch.setattr("cupola.config.bases.find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"'mmdet' is not installed.* or pass the path of a config"
    ):
        DetInferencer("rtmdet-s")


def test_a_config_without_weights_names_the_published_ones(
    online: tuple[str, Path], tmp_path: Path
) -> None:
    config = find_published("detr-d").config
    with pytest.raises(BundleError, match=f"a file or a URL; its published one is {online[0]}"):
        open_bundle(config)
    for text in ("Models: [1, {Name: a}]", "Models: [", "- 3", ""):
        shutil.copy(config, tmp_path / "detr_digits.py")
        (tmp_path / "metafile.yml").write_text(text)
        with pytest.raises(BundleError, match=r"pass weights= \(--weights\)$"):
            open_bundle(tmp_path / "detr_digits.py")


def test_commands_take_a_url(online: tuple[str, Path], tmp_path: Path) -> None:
    url, config = online[0], str(find_published("bare").config)
    found = open_bundle(config, url)
    assert found.weights_path == cache() / url.rpartition("/")[2]
    (cache() / url.rpartition("/")[2]).unlink()
    done = run_cupola("bundle", config, url, str(tmp_path / "made"))
    assert done.returncode == 0, done.stderr
    made, state = (
        read_checkpoint(tmp_path / "made/weights.safetensors"),
        read_checkpoint(SHIPPED.weights_path),
    )
    assert made.keys() == state.keys()
    assert all(torch.equal(made[key], value) for key, value in state.items())
