"""What the page shows of one input: attention, matching, a text, a field."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cupola
from cupola.bundles import Bundle
from cupola.cli.explained_model import load_model
from cupola.errors import InputError
from cupola.inspect.field_view import pack_map
from cupola.inspect.views import read_truth, view_of
from lazy import LazyModule

transformers = LazyModule("transformers")
Packed = dict[str, Any]


def view(name: str, **options: Any) -> tuple[Any, dict[str, Any]]:
    bundle = Bundle.load(name)
    model, _ = load_model(name, bundle, [])
    found = view_of(model, bundle, **options)
    assert found is not None
    json.dumps(found)
    return model, found


def unpacked(packed: Packed) -> np.ndarray[Any, Any]:
    data = np.frombuffer(base64.b64decode(packed["bytes"]), dtype=np.uint8)
    return data.reshape(packed["shape"])


def test_attention_of_every_layer_and_the_matching_of_detr() -> None:
    _, found = view("detr-digits")
    seen = found["attention"]
    assert seen["grid"] == [8, 8] and seen["cells"] == list(range(64))
    assert seen["cross"]["shape"] == [3, 8, 8, 64]
    assert seen["among"]["shape"] == [3, 8, 8, 25]
    assert seen["encoder"]["shape"] == [3, 8, 64, 64]
    assert unpacked(seen["cross"]).max(-1).min() == 255  # each row is relative to its largest
    last = unpacked(seen["cross"])[-1, :, 0].astype(
        float
    )  # the mean of the heads is what was shown
    mean = (last / last.sum(-1, keepdims=True)).mean(0)
    assert np.abs(mean - np.ravel(found["queries"][0]["attention"])).max() < 5e-3
    boxes = np.array(seen["boxes"])
    assert boxes.shape == (3, 25, 4)
    assert np.allclose(
        boxes[-1, found["queries"][0]["query"]], found["queries"][0]["box"], atol=1e-3
    )

    matching = found["matching"]
    assert [each["label"] for each in matching["objects"]] == ["2", "3", "0", "2"]
    assert matching["costs"] == ["class", "L1 of the boxes", "IoU of the boxes"]
    assert len(matching["layers"]) == 3
    own = [each["query"] for each in matching["layers"][-1]]
    assert len(set(own)) == 4
    for each in matching["layers"][-1]:  # a good model: the assigned query is the cheapest
        totals = [sum(row[1:]) for row in each["rows"]]
        assert totals == sorted(totals) and each["rows"][0][0] == each["query"]


def test_the_matching_of_a_detector_that_samples() -> None:
    _, found = view("dino-digits")
    assert found["kind"] == "sampling"
    assert [len(each["rows"]) >= 5 for each in found["matching"]["layers"][-1]] == [True] * 4


def test_a_detector_without_queries_shows_its_boxes() -> None:
    _, found = view("rtmdet-digits")
    assert found["kind"] == "boxes"
    assert sorted(each["label"] for each in found["boxes"]) == ["0", "2", "2", "3"]
    assert all(0 <= side <= 1 for each in found["boxes"] for side in each["box"])


def test_a_text_token_by_token() -> None:
    model, found = view("bloom-tiny", text="It is a truth")
    assert "".join(found["tokens"]) == "It is a truth"
    count = len(found["tokens"])
    weights = unpacked(found["attention"])
    assert weights.shape == (4, 4, count, count)
    assert not np.triu(weights[0, 0], 1).any()  # no token sees a later one
    assert found["slopes"] == [0.25, 0.0625, 0.015625, 0.003906]
    assert all(len(best) == 10 and best[0][1] >= best[-1][1] for best in found["next"])
    ids = torch.arange(5)[None]
    seen = model.inspect(ids)
    assert torch.allclose(seen["attention"].sum(-1), torch.ones(4, 4, 5))
    assert torch.allclose(seen["logits"], model.eval()(ids)[0], atol=1e-5)


def test_one_step_of_a_forecast() -> None:
    _, found = view("afno-navier-stokes")
    (channel,) = found["channels"]
    assert list(channel["maps"]) == ["start", "forecast", "truth", "error"]
    assert channel["maps"]["error"]["high"] == -channel["maps"]["error"]["low"]
    assert len(found["filters"]) == 3
    for each in found["filters"]:
        rows, columns = each["before"]["shape"]
        assert each["columns"] <= columns and all(0 <= a < b <= rows for a, b in each["rows"])


def test_what_a_model_does_not_take(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="forecast model"):
        view("afno-navier-stokes", source=tmp_path)
    with pytest.raises(InputError, match="language model"):
        view("rtmdet-digits", text="Once")
    wrong = tmp_path / "truth.json"
    for content in (
        '{"boxes": [[1, 2, 3]], "labels": [1]}',
        "[]",
        '{"boxes": [], "labels": [1]}',
        '{"boxes": [[1, 2, NaN, 4]], "labels": [1]}',
    ):
        wrong.write_text(content)
        with pytest.raises(InputError, match=r"truth\.json"):
            read_truth(wrong)


def test_what_would_be_ignored_is_refused(tmp_path: Path) -> None:
    truth = tmp_path / "truth.json"
    truth.write_text('{"boxes": [[1, 2, 30, 40]], "labels": [10]}')
    with pytest.raises(InputError, match=r"label 10 of the truth is not in 0\.\.9"):
        view("detr-digits", truth=truth)
    with pytest.raises(InputError, match="RTMDet does not match queries with objects"):
        view("rtmdet-digits", truth=truth)
    with pytest.raises(InputError, match="language model, which takes a text"):
        view("bloom-tiny", source=truth)
    with pytest.raises(InputError):
        view("bloom-tiny", text="")
    truth.write_text('{"boxes": [], "labels": []}')
    assert view("detr-digits", truth=truth)[1]["matching"]["layers"] == [[], [], []]


@pytest.mark.parametrize("name", ["bloom", "llama"])
def test_attention_is_that_of_transformers(name: str) -> None:
    """Grouped heads and rotary positions (LLaMA), ALiBi (BLOOM)."""
    torch.manual_seed(0)
    if name == "bloom":
        config: Any = transformers.BloomConfig(vocab_size=40, hidden_size=24, n_layer=2, n_head=3)
        peer: Any = transformers.BloomForCausalLM
    else:
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
        config = transformers.LlamaConfig(vocab_size=40, **sizes, **heads)
        peer = transformers.LlamaForCausalLM
    config._attn_implementation = "eager"
    theirs = peer(config).eval()
    ours = cupola.build({"type": peer.__name__, **config.to_dict()})
    cupola.load_weights(ours, theirs.state_dict())
    ids = torch.randint(0, 40, (1, 9))
    wanted = theirs(ids, output_attentions=True)
    seen = ours.inspect(ids)
    assert torch.allclose(seen["attention"], torch.cat(wanted.attentions), atol=1e-5)
    assert torch.allclose(seen["logits"], wanted.logits[0], atol=1e-4)


def test_maps_in_bytes() -> None:
    packed = pack_map(torch.tensor([[0.0, 1.0], [float("nan"), 2.0]]), 0.0, 2.0)
    assert unpacked(packed).tolist() == [[0, 128], [128, 255]]
    assert pack_map(torch.zeros(700, 100), 0.0, 0.0)["shape"] == [234, 34]
