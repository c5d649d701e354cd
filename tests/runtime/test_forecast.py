"""Forecasts: roll-outs, ensembles, streams, examples, and NaN that is named."""

import base64
from pathlib import Path

import numpy as np
import pytest
import torch

from cupola.errors import InputError
from cupola.runtime import Predictor
from cupola.runtime.predictors.forecast import ForecastPredictor
from toys import toy_bundle


@pytest.fixture
def predictor(tmp_path: Path) -> ForecastPredictor:
    found = Predictor.load(toy_bundle(tmp_path / "toy"))
    assert isinstance(found, ForecastPredictor)
    return found


def start() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, 8, 16)).astype(np.float32)


def test_normalizes_and_denormalizes(predictor: ForecastPredictor) -> None:
    forecast = predictor(start(), steps=1)
    mean, std = torch.tensor([1.0, -2.0])[:, None, None], torch.tensor([2.0, 4.0])[:, None, None]
    with torch.no_grad():
        expected = predictor.model(((torch.tensor(start()) - mean) / std)[None])[0] * std + mean
    torch.testing.assert_close(forecast.fields[0], expected)
    assert forecast.spread is None


def test_stream_equals_rollout(predictor: ForecastPredictor) -> None:
    whole = predictor(start(), steps=5).fields
    for state, expected in zip(predictor.stream(start(), 5), whole, strict=True):
        torch.testing.assert_close(state[0], expected)


def test_ensemble_is_seeded_and_its_first_member_unperturbed(predictor: ForecastPredictor) -> None:
    states = list(predictor.stream(start(), 2, members=3, seed=7))
    again = list(predictor.stream(start(), 2, members=3, seed=7))
    assert torch.equal(states[1], again[1])
    alone = list(predictor.stream(start(), 2))
    torch.testing.assert_close(states[1][:1], alone[1])
    spread = predictor(start(), 2, members=3, seed=7).spread
    assert spread is not None
    assert spread.shape == (2, 2, 8, 16)
    assert spread.min() >= 0
    assert spread.mean() > 0


def test_nan_is_named_before_it_spreads(predictor: ForecastPredictor) -> None:
    bad = start()
    bad[1, 3, 4] = np.nan
    with pytest.raises(InputError, match=r"fields: not finite: v \(1 of 128, first at row 3, col"):
        predictor(bad)
    with pytest.raises(InputError, match=r"expected \[2, 8, 16\] \(channels u, v\), got \[2, 8, 8"):
        predictor(bad[..., :8])


def test_forecast_that_breaks_down_says_when(predictor: ForecastPredictor) -> None:
    predictor.model.head.weight.data.fill_(1e38)
    with pytest.raises(InputError, match="diverged at step 1: not finite: u"):
        predictor(start(), 2)
    engine = predictor.open_stream()
    assert engine is not None
    engine.add("a", predictor.sample(start(), 3))
    (chunk,) = engine.step()
    assert chunk.final
    assert "diverged at step 1" in chunk.data["error"]
    assert engine.active == 0


def test_protocol_round(predictor: ForecastPredictor) -> None:
    fields = np.stack([start(), start() + 1])
    samples = predictor.decode({"fields": fields}, {"steps": 3})
    assert predictor.bucket(samples[0]) == predictor.bucket(samples[1])
    arrays = predictor.encode(predictor.run(samples), {})
    assert arrays["fields"].shape == (2, 3, 2, 8, 16)
    np.testing.assert_allclose(arrays["fields"][1], predictor(fields[1], 3).fields, atol=1e-5)
    samples = predictor.decode({"fields": fields}, {"steps": 2, "members": 3})
    assert predictor.encode(predictor.run(samples), {})["spread"].shape == (2, 2, 2, 8, 16)


def test_streams_advance_together(predictor: ForecastPredictor) -> None:
    engine = predictor.open_stream()
    assert engine is not None
    (first,) = predictor.decode({"fields": start()}, {"steps": 2, "encoding": "base64"})
    (second,) = predictor.decode({"fields": start() + 1}, {"steps": 3, "members": 2})
    engine.add("first", first)
    engine.add("second", second)
    chunks = engine.step()
    assert [chunk.request_id for chunk in chunks] == ["first", "second"]
    assert chunks[1].data["lead"] == 0.5
    assert np.asarray(chunks[1].data["spread"]).shape == (2, 8, 16)
    engine.add("third", second)
    chunks = engine.step()
    assert [chunk.final for chunk in chunks] == [True, False, False]
    sent = np.frombuffer(base64.b64decode(chunks[0].data["field"]), "<f4").reshape(2, 8, 16)
    np.testing.assert_allclose(sent, predictor(start(), 2).fields[1], atol=1e-5)
    assert engine.active == 2
    engine.cancel("second")
    engine.cancel("nobody")
    assert [chunk.request_id for chunk in engine.step()] == ["third"]
    engine.cancel("third")
    assert engine.step() == []


def test_examples_bring_their_truth(predictor: ForecastPredictor) -> None:
    (sample,) = predictor.decode({}, {"steps": 4, "example": 1})
    engine = predictor.open_stream()
    assert engine is not None
    engine.add("a", sample)
    chunks = [engine.step()[0] for _ in range(4)]
    np.testing.assert_allclose(chunks[0].data["truth"], predictor.example(1)[1])
    assert "truth" not in chunks[3].data
    assert predictor.decode({}, {})[0].steps == len(predictor.example(0)) - 1  # as recorded
    assert predictor.decode({"fields": start()}, {"steps": None})[0].steps == 1
    with pytest.raises(InputError, match=r"example: expected 0\.\.1, got 2"):
        predictor.decode({}, {"example": 2})
    predictor.folder = None
    with pytest.raises(InputError, match="send `fields`: toy has no examples"):
        predictor.decode({}, {})


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"steps": 0}, r"steps: expected 1\.\.400, got 0"),
        ({"steps": "many"}, "steps: expected a whole number, got 'many'"),
        ({"steps": "²"}, "steps: expected a whole number, got '²'"),
        ({"steps": "9" * 5000}, "steps: expected a whole number, got '999"),
        ({"members": 1000}, r"members: expected 1\.\.64"),
        ({"amplitude": "big"}, r"amplitude: expected a number in 0\.\.10, got 'big'"),
        ({"encoding": "hex"}, "encoding: expected 'list' or 'base64', got 'hex'"),
    ],
)
def test_bad_parameters(
    predictor: ForecastPredictor, parameters: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        predictor.decode({"fields": start()}, parameters)
