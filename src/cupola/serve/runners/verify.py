"""A version is taken into service only after it answered its recorded inputs.

A bundle may hold example/request.json (a body of the Open Inference Protocol) and
example/response.json (the answer recorded when the bundle was made).
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from cupola.errors import BundleError
from cupola.runtime.predictor import Predictor
from cupola.serve.models import ModelPlan
from cupola.serve.runners import codec

RELATIVE, ABSOLUTE = 1e-2, 1e-2  # other CPUs and thread counts round differently


def verify(predictor: Predictor, plan: ModelPlan) -> None:
    """Runs the recorded request, if there is one; BundleError if the answer differs."""
    folder = Path(plan.path) / "example"
    if not (folder / "request.json").is_file():
        return
    body = (folder / "request.json").read_bytes()
    request = codec.parse({"format": "v2"}, body, predictor.inputs)
    samples = predictor.decode(request.tensors, request.parameters)
    arrays = predictor.encode(predictor.run(samples), request.parameters)
    recorded = folder / "response.json"
    if recorded.is_file():
        for output in json.loads(recorded.read_text())["outputs"]:
            _compare(output, np.asarray(arrays[output["name"]]), plan)


def _compare(recorded: dict[str, Any], found: Any, plan: ModelPlan) -> None:
    where = f"{plan.name}:{plan.version}: output {recorded['name']!r}"
    if list(found.shape) != recorded["shape"]:
        raise BundleError(
            f"{where} has shape {list(found.shape)}, recorded was {recorded['shape']}"
        )
    flat = found.reshape(-1)
    if found.dtype.kind in "OSU":
        texts = [i.decode() if isinstance(i, bytes) else str(i) for i in flat]
        same = texts == recorded["data"]
    else:
        want = np.asarray([np.nan if v is None else v for v in recorded["data"]], dtype=np.float64)
        same = np.allclose(flat.astype(np.float64), want, RELATIVE, ABSOLUTE, equal_nan=True)
    if not same:
        raise BundleError(f"{where} differs from the answer recorded in the bundle")
