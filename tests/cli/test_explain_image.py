"""`cupola explain BUNDLE --image`: the model sees the image as its predictor would feed it."""

import json

import cupola
from cupola.bundles import Bundle
from cupola.inspect.views import view_of


def test_a_bundle_names_what_it_saw_first() -> None:
    bundle = Bundle.load("detr-digits")
    example = bundle.path / "example"
    truth = json.loads((example / "truth.json").read_text())
    model = cupola.build(bundle.config["model"], weights=bundle.weights_path).eval()
    queries = view_of(model, bundle, example / "image.png")["queries"]
    best = [query["label"] for query in queries[: len(truth["labels"])]]
    assert sorted(best) == sorted(str(label) for label in truth["labels"])
