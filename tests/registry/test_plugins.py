"""Plug-ins: by name, by entry point, through `cupola explain` and `cupola verify`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import save_file
from typer.testing import CliRunner

from cupola.cli.main import app
from cupola.errors import BuildError
from cupola.registry import MODELS, build, load_plugins

PACKAGE = Path(__file__).parent / "plugin" / "src"
LAYER = {
    "self_attn_cfg": {"embed_dims": 16, "num_heads": 2},
    "ffn_cfg": {"embed_dims": 16, "feedforward_channels": 32, "num_fcs": 2},
}
MODEL = {
    "type": "DETR",
    "num_queries": 5,
    "backbone": {"type": "DemoBackbone", "dim": 8},
    "neck": {"type": "ChannelMapper", "in_channels": [8], "out_channels": 16, "kernel_size": 1},
    "encoder": {"num_layers": 1, "layer_cfg": LAYER},
    "decoder": {
        "num_layers": 1,
        "layer_cfg": {**LAYER, "cross_attn_cfg": {"embed_dims": 16, "num_heads": 2}},
    },
    "positional_encoding": {"num_feats": 8, "normalize": True},
    "bbox_head": {"type": "DETRHead", "num_classes": 3, "embed_dims": 16},
}


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.syspath_prepend(PACKAGE)
    load_plugins(["cupola_demo_plugin"])
    return "cupola_demo_plugin"


def test_a_plugin_registers_its_classes(plugin: str) -> None:
    model = build(MODEL)
    assert model.build_record.part("backbone").cls == "cupola_demo_plugin.DemoBackbone"
    assert "DemoBackbone" in MODELS


def test_a_plugin_that_cannot_be_imported_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BuildError, match=r"the plug-in 'no_such_plugin' cannot be imported"):
        load_plugins(["no_such_plugin"])
    (tmp_path / "broken_plugin.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BuildError, match=r"'broken_plugin' cannot be imported: ZeroDivisionError"):
        load_plugins(["broken_plugin"])


def test_an_entry_point_is_honored_and_a_config_cannot_import(tmp_path: Path) -> None:
    info = tmp_path / "cupola_demo_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: cupola-demo-plugin\nVersion: 1.0\n"
    )
    (info / "entry_points.txt").write_text("[cupola.plugins]\ndemo = cupola_demo_plugin\n")
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "from cupola.registry import MODELS\n"
        "print(MODELS.get('DemoBackbone').__module__)\n"
    )
    run = [sys.executable, "-c", code, str(PACKAGE)]
    with_entry = subprocess.run([*run, str(tmp_path)], capture_output=True, text=True)
    assert with_entry.stdout.strip() == "cupola_demo_plugin", with_entry.stderr
    without = subprocess.run(run, capture_output=True, text=True)
    assert "'DemoBackbone' is not in the registry models" in without.stderr


def test_explain_and_verify_honor_it(plugin: str, tmp_path: Path) -> None:
    (tmp_path / "config.py").write_text(f"custom_imports = dict(imports=['x'])\nmodel = {MODEL!r}")
    run = CliRunner().invoke
    arguments = ["explain", str(tmp_path / "config.py"), "--plugin", plugin]
    shown = run(app, [*arguments, "--input", "3x64x64", "--depth", "1"])
    assert shown.exit_code == 0, shown.output
    assert "DemoBackbone" in shown.output and "1x8x4x4" in shown.output
    assert "cupola_demo_plugin/__init__.py:" in shown.output
    order = run(app, [*arguments, "--order"]).output
    assert "backbone: DemoBackbone (cupola_demo_plugin/__init__.py:" in order

    recorded = str(tmp_path / "build_record.json")
    run(app, [*arguments, "--depth", "0", "--build-record", recorded])
    same = run(app, [*arguments, "--compare", recorded])
    assert (same.exit_code, same.output) == (0, "")
    other = run(app, [*arguments, "--compare", recorded, "--set", "model.num_queries=6"])
    assert (other.exit_code, other.output) == (1, "model: num_queries: config: 5 -> 6\n") or (
        "num_queries: config: 5 -> 6" in other.output
    )


def test_verify_says_what_is_wrong_with_a_bundle(plugin: str, tmp_path: Path) -> None:
    import hashlib

    bundle = tmp_path / "bundle"
    bundle.mkdir()
    model = build(MODEL)
    save_file(dict(model.state_dict()), bundle / "weights.safetensors")
    digest = hashlib.sha256((bundle / "weights.safetensors").read_bytes()).hexdigest()
    config = {"name": "demo", "version": "1", "task": "detection", "model": MODEL}
    config["hashes"] = {"weights.safetensors": digest}
    (bundle / "config.json").write_text(json.dumps(config))
    (bundle / "card.md").write_text("Data: none. License: Apache-2.0. Recipe: none. Metrics: none.")
    model.build_record.save(bundle / "build_record.json")
    run = CliRunner().invoke
    good = run(app, ["verify", str(bundle), "--plugin", plugin])
    assert good.exit_code == 0, good.output
    assert "parts, as recorded" in good.output and digest[:16] in good.output

    (bundle / "card.md").write_text("nothing")
    config["hashes"] = {"weights.safetensors": "0" * 64, "../x": "0"}
    config["model"] = {**MODEL, "num_queries": 6}
    (bundle / "config.json").write_text(json.dumps(config))
    bad = run(app, ["verify", str(bundle)])
    assert bad.exit_code == 1
    for said in ("not 0000000000000000", "../x: missing", "lacks data", "FAIL build"):
        assert said in bad.output
