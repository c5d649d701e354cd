"""Predictors for tests, without torch, that misbehave on demand."""

import io
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cupola.bundles import Bundle
from cupola.errors import BundleError, InputError
from cupola.runtime import Chunk, Predictor, TensorSpec, tasks
from cupola.runtime.tasks import Task


class Echo(Predictor):
    """Returns x + offset, and `text` unchanged. `do` makes it sleep, spin, die or fail."""

    task = "echo"
    max_batch = 8

    @classmethod
    def from_bundle(cls, path: Path, config: dict[str, Any]) -> "Echo":
        match config.get("start"):
            case "missing":
                raise BundleError(f"{path / 'weights.safetensors'} is missing")
            case "import":
                raise ImportError("no module named 'nowhere'")
            case "hang":
                time.sleep(3600)
            case "exit":
                os._exit(1)
            case "memory":
                raise MemoryError("out of memory")
        time.sleep(config.get("load_seconds", 0.0))
        act("spin", config.get("load_spin", 0.0))
        return cls(config["name"], str(config["version"]), None, config)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return (
            TensorSpec("x", "FP32", (-1,), optional=True),
            TensorSpec("text", "BYTES", (-1,), optional=True),
            TensorSpec("ids", "INT64", (-1, -1), optional=True),
        )

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return (
            TensorSpec("y", "FP32", (-1,)),
            TensorSpec("text", "BYTES", (-1,)),
            TensorSpec("batch", "INT64", (1,)),
            TensorSpec("pid", "INT64", (1,)),
        )

    def decode(self, tensors: Any, parameters: Any) -> list[Any]:
        if not tensors:
            raise InputError("nothing to echo")
        return [{"tensors": tensors, "do": parameters.get("do"), "s": parameters.get("s", 0.0)}]

    def bucket(self, sample: Any) -> Any:
        return sample["tensors"]["x"].shape if "x" in sample["tensors"] else None

    def run(self, samples: Any) -> list[Any]:
        for sample in samples:
            act(sample["do"], float(sample["s"]))
        return [(sample, len(samples)) for sample in samples]

    def encode(self, predictions: Any, parameters: Any) -> dict[str, Any]:
        sample, size = predictions[0]
        if sample["do"] == "die in encode":
            act("die", 0.0)
        found: dict[str, Any] = {"batch": np.array([size]), "pid": np.array([os.getpid()])}
        if "x" in sample["tensors"]:
            found["y"] = sample["tensors"]["x"] + np.float32(self.config.get("offset", 0))
        for name in ("text", "ids"):
            if name in sample["tensors"]:
                found[name] = sample["tensors"][name]
        return found


leaked: list[bytes] = []


def act(what: str | None, seconds: float) -> None:
    """Sleeps, spins, dies or fails."""
    match what:
        case "sleep":
            time.sleep(seconds)
        case "spin":
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                pass
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "fail":
            raise RuntimeError("told to fail")
        case "leak":
            leaked.append(b"x" * int(1_000_000 * seconds))  # one million bytes a second
        case "hog":
            leaked.append(b"x" * int(1_000_000 * seconds))
            time.sleep(3)


class Counter(Echo):
    """A model of streams: y is the sum of all x of the sequence so far, or x alone without one."""

    task = "counter"
    is_stream = True

    def run_frame(self, sample: Any, state: Any) -> tuple[Any, Any]:
        act(sample["do"], float(sample["s"]))
        total = sample["tensors"]["x"] + (0 if state is None else state)
        return ({**sample, "tensors": {"x": total}}, 1), total


class Choosing(Echo):
    """Its engines are to be measured until a runner has done so, as a file says."""

    task = "choosing"

    @property
    def execution(self) -> Any:
        return self.__dict__.get("chosen")

    @execution.setter
    def execution(self, found: Any) -> None:
        if found is not None:
            measured = Path(self.config["measured"])
            engine = "measured" if measured.exists() else "at once"
            found = replace(found, engine=engine, provisional=not measured.exists())
            measured.touch()
        self.__dict__["chosen"] = found


class Noop(Predictor):
    """Returns its input, so that only the server's own work is measured."""

    task = "noop"

    @classmethod
    def from_bundle(cls, path: Path, config: dict[str, Any]) -> "Noop":
        return cls(config["name"], str(config["version"]), None, config)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return (TensorSpec("x", "FP32", (-1,)),)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return (TensorSpec("y", "FP32", (-1,)),)

    def decode(self, tensors: Any, parameters: Any) -> list[Any]:
        return [tensors["x"]]

    def run(self, samples: Any) -> list[Any]:
        return list(samples)

    def encode(self, predictions: Any, parameters: Any) -> dict[str, Any]:
        return {"y": predictions[0]}


class Speaker(Predictor):
    """A language model that generates w0 w1 w2 ..."""

    task = "language"

    @classmethod
    def from_bundle(cls, path: Path, config: dict[str, Any]) -> "Speaker":
        return cls(config["name"], str(config["version"]), None, config)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return (TensorSpec("text", "BYTES", (-1,)),)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return (TensorSpec("text", "BYTES", (-1,)),)

    def decode(self, tensors: Any, parameters: Any) -> list[Any]:
        try:
            return [(item.decode(), dict(parameters)) for item in tensors["text"]]
        except UnicodeDecodeError as error:
            raise InputError(f"text: {error}") from None

    def run(self, samples: Any) -> list[Any]:
        return [text for text, _ in samples]

    def encode(self, predictions: Any, parameters: Any) -> dict[str, Any]:
        return {"text": np.array([text.encode() for text in predictions], dtype=object)}

    def open_stream(self) -> "WordEngine":
        return WordEngine(float(self.config.get("step_seconds", 0.0)))


class WordEngine:
    """Generates `max_tokens` words; dies once at word N if the prompt is "die N FILE".

    "fail N" fails the step of all requests, "panic N" this request alone.
    """

    def __init__(self, pause: float) -> None:
        self.pause = pause
        self.requests: dict[str, list[Any]] = {}

    @property
    def active(self) -> int:
        return len(self.requests)

    def add(self, request_id: str, sample: Any) -> None:
        self.requests[request_id] = [sample, 0]

    def cancel(self, request_id: str) -> None:
        self.requests.pop(request_id, None)

    def step(self) -> list[Chunk]:
        time.sleep(self.pause)
        chunks = []
        for request_id, state in list(self.requests.items()):
            (text, parameters), said = state
            words = text.split()
            if words[:1] == ["die"] and said == int(words[1]) and not Path(words[2]).exists():
                Path(words[2]).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if words[:1] == ["fail"] and said == int(words[1]):
                raise RuntimeError("told to fail")
            if words[:1] == ["panic"] and said == int(words[1]):
                del self.requests[request_id]
                chunks.append(Chunk(request_id, {}, final=True, error="cannot decode its tokens"))
                continue
            final = said + 1 >= int(parameters.get("max_tokens", 5))
            data = {"text": f"w{said} ", "token_id": said,
                    "finish_reason": "length" if final else None}  # fmt: skip
            if said == 0:
                data["prompt_tokens"] = len(words)
            chunks.append(Chunk(request_id, data, final))
            state[1] += 1
            if final:
                del self.requests[request_id]
        return chunks


class Finder(Predictor):
    """A detector without a model: finds the bounding box of the white pixels."""

    task = "detection"

    @classmethod
    def from_bundle(cls, path: Path, config: dict[str, Any]) -> "Finder":
        return cls(config["name"], str(config["version"]), None, config)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return (TensorSpec("image", "BYTES", (-1,)),)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return (
            TensorSpec("boxes", "FP32", (-1, 4)),
            TensorSpec("scores", "FP32", (-1,)),
            TensorSpec("labels", "INT64", (-1,)),
            TensorSpec("names", "BYTES", (-1,)),
            TensorSpec("image_index", "INT64", (-1,)),
        )

    def decode(self, tensors: Any, parameters: Any) -> list[Any]:
        try:
            return [
                np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in tensors["image"]
            ]
        except OSError as error:
            raise InputError(f"no image: {error}") from None

    def run(self, samples: Any) -> list[Any]:
        found = []
        for image in samples:
            ys, xs = np.nonzero((image == 255).all(axis=2))
            box = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] if len(xs) else None
            found.append(box)
        return found

    def encode(self, predictions: Any, parameters: Any) -> dict[str, Any]:
        kept = [(n, box) for n, box in enumerate(predictions) if box is not None]
        return {
            "boxes": np.array([box for _, box in kept], dtype=np.float32).reshape(-1, 4),
            "scores": np.full(len(kept), 0.93, dtype=np.float32),
            "labels": np.full(len(kept), 7, dtype=np.int64),
            "names": np.array([b"7"] * len(kept), dtype=object),
            "image_index": np.array([n for n, _ in kept], dtype=np.int64),
        }


class Toy(Task):
    """The task of one of the predictors above."""

    def __init__(self, kind: Any) -> None:
        self.name, self.kind = kind.task, kind  # type: ignore[misc]
        self.page = tasks.find(self.name).page if self.name in tasks.names() else None  # type: ignore[misc]

    def predictor(self, bundle: Bundle, model: Any) -> Predictor:
        predictor: Predictor = self.kind.from_bundle(bundle.path, dict(bundle.config))
        return predictor


for made in (Echo, Counter, Choosing, Noop, Speaker, Finder):
    tasks.register(Toy(made), replace=True)
