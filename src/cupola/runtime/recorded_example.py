"""The recorded example of a bundle: a request, and the answer to it when the bundle was made.

`example/request.json` and `example/response.json` are bodies of the Open Inference Protocol.
`cupola train` records the answer. `cupola verify` repeats the request and compares, and so does a
server before it puts a version into service.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cupola.runtime.predictor import Arrays, Predictor

TOLERANCE = 1e-2  # relative and absolute: other processors and thread counts round differently
DTYPES = {"FP32": "float32", "FP64": "float64", "FP16": "float16", "BOOL": "bool"}


def answer_example(predictor: Predictor, bundle: Path) -> Arrays | None:
    """The predictor's answer to the recorded request; None without one."""
    path = bundle / "example" / "request.json"
    if not path.is_file():
        return None
    request = json.loads(path.read_text(encoding="utf-8"))
    tensors = {each["name"]: _array(each) for each in request["inputs"]}
    parameters = request.get("parameters", {})
    return predictor.encode(predictor.run(predictor.decode(tensors, parameters)), parameters)


def record_answer(predictor: Predictor, bundle: Path) -> None:
    """Writes response.json for the recorded request; does nothing without one."""
    found = answer_example(predictor, bundle)
    if found is None:
        return
    outputs = [
        {
            "name": spec.name,
            "datatype": spec.datatype,
            "shape": list(found[spec.name].shape),
            "data": [_plain(value) for value in found[spec.name].reshape(-1).tolist()],
        }
        for spec in predictor.outputs
        if spec.name in found
    ]
    response = {"model_name": predictor.name, "model_version": predictor.version}
    text = json.dumps({**response, "outputs": outputs}, indent=1, ensure_ascii=False) + "\n"
    (bundle / "example" / "response.json").write_text(text, encoding="utf-8")


def differing(predictor: Predictor, bundle: Path) -> list[str] | None:
    """Names of the outputs that differ from the recorded ones; None if nothing is recorded."""
    path = bundle / "example" / "response.json"
    found = answer_example(predictor, bundle)
    if found is None or not path.is_file():
        return None
    recorded = json.loads(path.read_text(encoding="utf-8"))["outputs"]
    return [each["name"] for each in recorded if not _close(each, found.get(each["name"]))]


def _array(spec: Mapping[str, Any]) -> Any:
    """A tensor of the protocol's JSON as an array; BYTES become objects."""
    kind = "object" if spec["datatype"] == "BYTES" else spec["datatype"].lower()
    return np.array(spec["data"], DTYPES.get(spec["datatype"], kind)).reshape(spec["shape"])


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _close(spec: Mapping[str, Any], found: Any) -> bool:
    """Whether an output equals the recorded one up to TOLERANCE; NaN is null in JSON."""
    if found is None or list(np.shape(found)) != spec["shape"]:
        return False
    values = [_plain(value) for value in np.asarray(found).reshape(-1).tolist()]
    if spec["datatype"] == "BYTES":
        return bool(values == spec["data"])
    wanted = np.array([np.nan if v is None else v for v in spec["data"]], np.float64)
    return bool(np.allclose(values, wanted, TOLERANCE, TOLERANCE, equal_nan=True))
