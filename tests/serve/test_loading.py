"""Loading of models for serving: what requests would wait for is made before the first one."""

from pathlib import Path

from cupola.serve.runners.loading import load_predictor
from cupola.serve.settings.models import ModelPlan
from language_toys import language_bundle


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
