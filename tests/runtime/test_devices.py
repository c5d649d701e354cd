"""`device=`: detectors run where they are told; what is not there is one clear line."""

import numpy as np
import pytest
import torch

from cupola import Predictor
from cupola.errors import InputError
from cupola.runtime.devices import available, find_device
from cupola.structures import Detections

IMAGE = np.zeros((100, 120, 3), np.uint8)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cuda:99", "device 'cuda:99': not on this machine"),
        ("gpu", "device 'gpu': not a device; name one of 'cpu'"),
        ("cuda:x", "device 'cuda:x': not a device"),
        ("meta", "device 'meta': holds no values to compute with; name 'cpu'"),
        (3.5, "device 3.5: not a device"),
    ],
)
def test_what_is_not_there_is_one_line(name: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        Predictor.load("detr-digits", device=name)
    assert "\n" not in str(caught.value)


def test_the_cpu_is_the_default() -> None:
    assert available()[0] == "cpu"
    assert find_device() == find_device("cpu") == find_device(torch.device("cpu"))
    predictor = Predictor.load("detr-digits", device="cpu")
    assert predictor.device == torch.device("cpu")
    default = Predictor.load("detr-digits")
    assert torch.equal(predictor(IMAGE, 0.0).boxes, default(IMAGE, 0.0).boxes)


def test_other_tasks_say_that_they_run_on_the_cpu() -> None:
    assert Predictor.load("afno-navier-stokes", device="cpu").task == "forecast"
    with pytest.raises(InputError, match="device 'cuda:0': a forecast model runs on the CPU"):
        Predictor.load("afno-navier-stokes", device="cuda:0")


def test_every_step_runs_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device, which refuses to mix with tensors elsewhere."""
    predictor = Predictor.load("detr-digits")
    predictor.device = torch.device("meta")
    predictor.model.to("meta")
    predictor.pad = (256, 256)
    moved: list[Detections] = []

    def recorded(found: Detections) -> Detections:
        moved.append(found)
        return found

    monkeypatch.setattr(Detections, "cpu", recorded)
    sample = predictor.sample(IMAGE)
    predictor.run([sample, sample])
    assert sample.pixels.is_meta and len(moved) == 2
    assert all(found.boxes.is_meta and found.scores.is_meta for found in moved)
