"""An installed plug-in: its class is trained, explained, verified and served.

No command line names the package; it is found by its entry point.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from serve_harness import SRC, Running

from cupola_commands import run_cupola

PLUGIN = Path(__file__).parents[1] / "registry" / "plugin"
CONFIG = """
layer = dict(
    self_attn_cfg=dict(embed_dims=16, num_heads=2),
    ffn_cfg=dict(embed_dims=16, feedforward_channels=32, num_fcs=2),
)
model = dict(
    type="DETR",
    num_queries=12,
    backbone=dict(type="DemoBackbone", dim=8),
    neck=dict(type="ChannelMapper", in_channels=[8], out_channels=16, kernel_size=1),
    encoder=dict(num_layers=1, layer_cfg=layer),
    decoder=dict(
        num_layers=1, layer_cfg=dict(layer, cross_attn_cfg=dict(embed_dims=16, num_heads=2))
    ),
    positional_encoding=dict(num_feats=8, normalize=True),
    bbox_head=dict(type="DETRHead", num_classes=10, embed_dims=16),
)
images = dict(type="DigitsInPhotos", size=64, count=4)
train_dataloader = dict(batch_size=2, dataset=dict(images, split="train"))
val_dataloader = dict(batch_size=2, dataset=dict(images, split="val"))
val_evaluator = dict(type="CocoMetric")
optim_wrapper = dict(optimizer=dict(type="AdamW", lr=1e-3))
train_cfg = dict(max_iters=2, val_interval=2)
bundle = dict(
    name="demo-digits",
    task="detection",
    labels=["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"],
    license="Apache-2.0",
    description="A toy.",
    preprocess=dict(resize=dict(exact=[64, 64])),
    examples=dict(images, split="val"),
)
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder on the module path, into which the package is installed from a wheel."""
    home = tmp_path / "site"
    install = ["install", "--quiet", "--no-deps", "--no-build-isolation", "--target", str(home)]
    subprocess.run([sys.executable, "-m", "pip", *install, str(PLUGIN)], check=True)
    return home


@pytest.mark.slow
@pytest.mark.slow
def test_an_installed_plugin_is_trained_and_served(tmp_path: Path, site: Path) -> None:
    (tmp_path / "demo.py").write_text(CONFIG)
    environment = {"PYTHONPATH": f"{SRC}:{site}", "OMP_NUM_THREADS": "1"}

    def cupola(*arguments: str) -> str:
        done = run_cupola(*arguments, cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    cupola("train", "demo.py", "--work-dir", "run")
    bundle = tmp_path / "run" / "demo-digits"
    shown = cupola("explain", str(bundle), "--input", "3x64x64", "--depth", "1")
    assert "DemoBackbone" in shown and "cupola_demo_plugin/__init__.py:" in shown
    assert "example" in cupola("verify", str(bundle))

    server = Running(tmp_path / "server", models=[str(bundle)], plugins=[])
    server.start(env=environment)
    try:
        server.wait_ready()
        request = (bundle / "example" / "request.json").read_bytes()
        status, _, body = server.ask("POST", "/v2/models/demo-digits/infer", request)
        assert status == 200, body
        assert {"boxes", "labels"} <= {output["name"] for output in json.loads(body)["outputs"]}
    finally:
        server.stop()
