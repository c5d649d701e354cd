"""Loading of models for serving: what requests would wait for is made before the first one."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cupola.bundles.writing import write_bundle
from cupola.errors import ConfigError, InputError
from cupola.registry import build
from cupola.runtime.load import load_predictor as load
from cupola.serve.runners.loading import load_predictor, optimize
from cupola.serve.settings.model import ModelSettings
from cupola.serve.settings.models import ModelPlan, plan_model
from cupola.serve.settings.settings import Settings
from language_toys import language_bundle
from models.fcos.small import MODEL as FCOS


def test_the_tables_for_grammars_are_made_before_the_first_request(tmp_path: Path) -> None:
    bundle = language_bundle(tmp_path / "toy", "toy")
    predictor = load_predictor(ModelPlan("toy", "1", str(bundle.path), "language"), tmp_path / "w")
    assert "tokenizer" in vars(predictor.guides)  # making it would stall the streams that run


def test_a_tokenizer_without_grammars_is_served(tmp_path: Path) -> None:
    bundle = language_bundle(tmp_path / "toy", "toy")
    predictor = load_predictor(ModelPlan("toy", "1", str(bundle.path), "language"), tmp_path / "w")

    class Broken:
        def to_str(self) -> str:
            return "{}"

        def id_to_token(self, token: int) -> None:
            return None

    vars(predictor.guides).pop("tokenizer")
    predictor.guides._plain = Broken()
    predictor.prepare()
    assert "tokenizer" not in vars(predictor.guides)


def test_views_are_merged_where_the_settings_ask(tmp_path: Path) -> None:
    """As `Predictor.load(..., tta=True)` does; what cannot be augmented ends the start."""
    views = [{"resize": {"short": 64, "long": 96}, "flip": flip} for flip in (None, "horizontal")]
    about = {
        "name": "views", "version": "1", "task": "detection", "model": FCOS,
        "preprocess": {"resize": {"short": 64, "long": 96}}, "postprocess": {"threshold": 0.0},
        "tta": {"views": views, "nms": {"type": "nms", "iou_threshold": 0.4}, "max_per_img": 7},
    }  # fmt: skip
    torch.manual_seed(0)
    write_bundle(tmp_path / "v", about, build(FCOS).state_dict(), "# Card\n", torch.float32)
    model = ModelSettings(bundle=str(tmp_path / "v"), tta=True, optimization="eager")
    plan = plan_model(model, Settings())
    served = optimize(load_predictor(plan, tmp_path / "w"), plan, print)
    pixels = np.random.default_rng(0).integers(0, 255, (1, 50, 70, 3), np.uint8)
    answers = served.encode(served.run(served.decode({"pixels": pixels}, {})), {})
    expected = load(tmp_path / "v", tta=True)(pixels[0], threshold=0.0)
    assert len(expected) == 7 and answers["scores"] == pytest.approx(expected.scores.numpy())
    with pytest.raises(ConfigError, match="tta is for detectors, and its task is 'forecast'"):
        plan_model(ModelSettings(bundle="afno-navier-stokes", tta=True), Settings())
    refused = {**about, "tta": {"refused": "its views cannot be merged"}}
    write_bundle(tmp_path / "r", refused, build(FCOS).state_dict(), "# Card\n", torch.float32)
    plan = plan_model(model.model_copy(update={"bundle": str(tmp_path / "r")}), Settings())
    with pytest.raises(InputError, match="views: its views cannot be merged"):
        optimize(load_predictor(plan, tmp_path / "w"), plan, print)
