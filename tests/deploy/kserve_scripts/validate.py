"""Checks manifests against the models of KServe's SDK: `python validate.py FILE...`.

They are generated from the same definitions as its CRDs. Unknown fields, missing ones and wrong
types are printed with their paths; the exit code is their number.
"""

import re
import sys
from pathlib import Path
from typing import Any

import kserve.models
import kubernetes.client
import yaml

KINDS = {
    "ClusterServingRuntime": "V1alpha1ClusterServingRuntime",
    "ServingRuntime": "V1alpha1ServingRuntime",
    "InferenceService": "V1beta1InferenceService",
}
PLAIN: dict[str, Any] = {"str": str, "int": int, "float": (int, float), "bool": bool}


def find(name: str) -> Any:
    """A class by its name; None for what is no class, such as a quantity."""
    return getattr(kserve.models, name, None) or getattr(kubernetes.client, name, None)


def check(value: Any, kind: str, path: str) -> list[str]:
    """What is wrong with a value of a type as the SDK writes it: list[X], dict(str, X), X."""
    if found := re.fullmatch(r"list\[(.+)\]", kind):
        if not isinstance(value, list):
            return [f"{path}: expected a list, found {value!r}"]
        return [p for n, each in enumerate(value) for p in check(each, found[1], f"{path}[{n}]")]
    if found := re.fullmatch(r"dict\(str, (.+)\)", kind):
        if not isinstance(value, dict):
            return [f"{path}: expected an object, found {value!r}"]
        return [p for key, each in value.items() for p in check(each, found[1], f"{path}.{key}")]
    if kind in PLAIN:
        right = isinstance(value, PLAIN[kind]) and (kind == "bool" or not isinstance(value, bool))
        return [] if right else [f"{path}: expected {kind}, found {value!r}"]
    if (model := find(kind)) is None:
        return []
    return check_model(value, model, path)


def check_model(value: Any, model: Any, path: str) -> list[str]:
    """The fields of an object."""
    if not isinstance(value, dict):
        return [f"{path}: expected an object, found {value!r}"]
    names = {json_name: name for name, json_name in model.attribute_map.items()}
    problems = [f"{path}: unknown field {key}" for key in value if key not in names]
    known = {names[key]: each for key, each in value.items() if key in names}
    try:
        model(**known)  # asks for the required ones
    except ValueError as error:
        problems.append(f"{path}: {' '.join(str(error).split())}")
    for name, each in known.items():
        inner = f"{path}.{model.attribute_map[name]}"
        problems += check(each, model.openapi_types[name], inner)
    return problems


def main(paths: list[str]) -> int:
    problems = []
    for path in paths:
        for document in yaml.safe_load_all(Path(path).read_text()):
            kind = document.get("kind")
            if kind not in KINDS:
                problems.append(f"{path}: unknown kind {kind}")
            else:
                problems += check(document, KINDS[kind], f"{path}: {kind}")
    print("\n".join(problems))
    return len(problems)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
