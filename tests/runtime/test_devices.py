"""`device=`: models run where they are told; what is not there is one clear line."""

from typing import Any

import numpy as np
import pytest
import torch

from cupola import Predictor
from cupola.errors import InputError
from cupola.generation.shortlist import ArgmaxShortlist
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


def test_cameras_and_their_motion_are_on_the_device() -> None:
    predictor: Any = Predictor.load("detr3d-scenes")
    predictor.device = torch.device("meta")
    batch = predictor.batch([predictor.example({})])
    motion = predictor._motion([predictor.example({})])
    assert all(each.is_meta for each in (batch["pixels"], batch["lidar2img"], *motion.values()))


def test_a_forecast_advances_on_the_device() -> None:
    predictor: Any = Predictor.load("afno-era5-week")
    start = predictor.example(0)[0]
    predictor.device = torch.device("meta")
    predictor.model.to("meta")
    sample = predictor.sample(start.numpy(), 1, members=2, time=0.0)
    assert sample.state.is_meta
    assert predictor.force(predictor.advance(sample.state), 0.0, 1).is_meta
    with pytest.raises(NotImplementedError):  # values of meta tensors cannot be copied back
        predictor.physical(sample.state)


def test_text_is_generated_on_the_device() -> None:
    predictor: Any = Predictor.load("bloom-tiny", device="cpu", optimization="packed")
    predictor.model.to("meta")
    predictor.device = torch.device("meta")
    scheduler = predictor.new_scheduler()
    assert not isinstance(predictor.model.shortlist, ArgmaxShortlist)  # the kernel is the CPU's
    assert predictor.model.dtype == torch.float16  # as the weights are stored
    assert all(each.is_meta for each in (*scheduler.cache.keys, *scheduler.cache.values))


class Echo(Predictor):
    """A predictor that knows nothing of devices, as in docs/extending.md."""

    task = "toy"
    inputs = outputs = ()
    run = encode = decode = None  # type: ignore[assignment]


def test_a_predictor_of_the_cpu_says_so() -> None:
    predictor: Any = Echo("echo", "1", None)
    predictor.to(None)
    predictor.to("cpu")
    with pytest.raises(InputError, match="device 'cuda:0': a toy model runs on the CPU"):
        predictor.to("cuda:0")
