"""A bundle's recorded example: a request, and the answer that it got when the bundle was made.

`example/request.json` and `example/response.json` are bodies of the Open Inference Protocol.
`cupola train` records the answer; `cupola verify`, and a server before it takes a version into
service, ask again and compare.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cupola.runtime.predictor import Arrays, Predictor

TOLERANCE = 1e-2  # relative and absolute: other processors and thread counts round differently
DTYPES = {"FP32": "float32", "FP64": "float64", "FP16": "float16", "BOOL": "bool"}


def answer(predictor: Predictor, bundle: Path) -> Arrays | None:
    """What the predictor answers to the bundle's recorded request; None if there is none."""
    path = bundle / "example" / "request.json"
    if not path.is_file():
        return None
    request = json.loads(path.read_text(encoding="utf-8"))
    tensors = {each["name"]: _array(each) for each in request["inputs"]}
    parameters = request.get("parameters", {})
    return predictor.encode(predictor.run(predictor.decode(tensors, parameters)), parameters)


def record(predictor: Predictor, bundle: Path) -> None:
    """Writes the answer to the recorded request beside it, where there is a request."""
    found = answer(predictor, bundle)
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
    """The outputs that are not as recorded; None if there is no recorded request or answer."""
    path = bundle / "example" / "response.json"
    found = answer(predictor, bundle)
    if found is None or not path.is_file():
        return None
    recorded = json.loads(path.read_text(encoding="utf-8"))["outputs"]
    return [each["name"] for each in recorded if not _alike(each, found.get(each["name"]))]


def _array(spec: Mapping[str, Any]) -> Any:
    """A tensor of the protocol's JSON as an array; BYTES become objects."""
    kind = "object" if spec["datatype"] == "BYTES" else spec["datatype"].lower()
    return np.array(spec["data"], DTYPES.get(spec["datatype"], kind)).reshape(spec["shape"])


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _alike(spec: Mapping[str, Any], found: Any) -> bool:
    """NaN stands as null in JSON."""
    if found is None or list(np.shape(found)) != spec["shape"]:
        return False
    values = [_plain(value) for value in np.asarray(found).reshape(-1).tolist()]
    if spec["datatype"] == "BYTES":
        return bool(values == spec["data"])
    wanted = np.array([np.nan if v is None else v for v in spec["data"]], np.float64)
    return bool(np.allclose(values, wanted, TOLERANCE, TOLERANCE, equal_nan=True))
