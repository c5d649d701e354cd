"""`cupola explain` on everything that is shipped, at the size that each model has in use."""

from pathlib import Path

import pytest

import cupola
from cupola import nn
from cupola.bundles import Bundle, shipped_names
from cupola.cli.explained_model import build_model
from cupola.config import Config
from cupola.inspect import describe
from cupola.inspect.own_shape import own_shape
from cupola.runtime.building import without_pretrained

CONFIGS = Path(cupola.__file__).parent / "configs"
NAMES = sorted(str(p.relative_to(CONFIGS)) for p in CONFIGS.glob("*/*.py") if p.stem[0] != "_")
OWN = {
    "detr/detr_r50.py": (3, 800, 1067),
    "detr3d/detr3d_r101_gridmask.py": (6, 3, 256, 416),  # 928 x 1600, halved twice
    "digits/detr_digits.py": (3, 128, 128),
    "afno/fourcastnet.py": None,
    "bloom/bloom_7b1.py": None,
}


@pytest.mark.parametrize("name", NAMES)
def test_every_config_builds(name: str) -> None:
    with nn.on_meta():
        model = cupola.build(without_pretrained(Config.load(CONFIGS / name).to_dict()["model"]))
    if name in OWN:
        assert own_shape(model, str(CONFIGS / name), None) == OWN[name]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [n for n in NAMES if not n.startswith(("bloom/bloom_1", "afno/f"))]
)
def test_every_config_is_explained(name: str) -> None:
    source = str(CONFIGS / name)
    model = build_model(source, None, [])
    runs = not any(each.is_meta for each in model.parameters())
    found = describe(model, own_shape(model, source, None) if runs else None, run=runs)
    assert found.root.parameters == sum(p.numel() for p in model.parameters())
    assert not runs or found.seen.flops > 0


FAST = ("detr-digits", "bloom-tiny", "afno-navier-stokes", "detr3d-scenes")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in shipped_names()],
)
def test_every_bundle_is_explained_as_it_is_used(name: str) -> None:
    bundle = Bundle.load(name)
    model = build_model(name, bundle, [])
    shape = own_shape(model, name, bundle)
    assert (shape is None) == (bundle.task in ("forecast", "language"))
    found = describe(model, shape, run=True)
    assert found.seen is not None and found.seen.flops > 0
    if name == "detr-digits":  # 64 cells, as the tour says
        assert found.node("encoder").visit.shape_out == "1x64x128"
