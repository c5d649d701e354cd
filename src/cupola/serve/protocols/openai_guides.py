"""What a request wants its text to be: JSON, a pattern or a choice, as OpenAI and vLLM have it."""

from collections.abc import Mapping
from typing import Any

import orjson

from cupola.serve.protocols.openai_errors import ParameterError
from cupola.serve.protocols.openai_tools import NAME

Guide = dict[str, Any]
# vLLM's parameters, and the same in its `structured_outputs`, by the kind of guide.
GUIDED = {
    "guided_json": "json_schema",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
}
STRUCTURED = {
    "json": "json_schema",
    "regex": "regex",
    "choice": "choice",
    "grammar": "grammar",
    "json_object": "json_object",
}
ANY_OBJECT = {"type": "object"}


def read_guides(response_format: Any, structured: Any, guided: Mapping[str, Any]) -> Guide | None:
    """The only guide of a request, None without one. ParameterError if wrong or more than one."""
    found = [_guide(kind, guided[name], name) for name, kind in GUIDED.items() if name in guided]
    found += _structured(structured) if structured is not None else []
    found += _response_format(response_format) if response_format is not None else []
    if len(found) > 1:
        names = " and ".join(each["name"] for each in found)
        raise ParameterError(found[1]["name"], f"{names}: only one of them can be followed")
    return found[0] if found else None


def _guide(kind: str, value: Any, name: str, strict: bool = True) -> Guide:
    if kind == "json_schema" and isinstance(value, str):  # vLLM takes schemas as text, too
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError as error:
            raise ParameterError(name, f"{name}: not valid JSON ({error})") from None
    return {"kind": kind, "value": value, "name": name, "strict": strict}


def _structured(value: Any) -> list[Guide]:
    name = "structured_outputs"
    if not isinstance(value, dict):
        raise ParameterError(name, f"{name}: expected an object, got {value!r:.60}")
    given = {key: each for key, each in value.items() if each is not None and each is not False}
    for key in given:
        if key not in STRUCTURED:
            raise ParameterError(name, f"{name}.{key}: not supported", "unsupported_parameter")
    found = []
    for key, each in given.items():
        if key == "json_object":
            found.append(_guide("json_schema", ANY_OBJECT, name))
        else:
            found.append(_guide(STRUCTURED[key], each, name))
    return found


def _response_format(value: Any) -> list[Guide]:
    name = "response_format"
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "text":
        return []
    if kind == "json_object":
        return [_guide("json_schema", ANY_OBJECT, name)]
    if kind != "json_schema":
        expected = "text, json_object or json_schema"
        message = f"{name}.type: expected {expected}, got {kind!r:.40}"
        raise ParameterError(name, message, "invalid_value")
    about = value.get("json_schema")
    if not isinstance(about, dict) or not isinstance(about.get("schema"), dict):
        raise ParameterError(name, f"{name}.json_schema: expected an object with name and schema")
    if not isinstance(about.get("name"), str) or not NAME.fullmatch(about["name"]):
        message = f"{name}.json_schema.name: expected 1 to 64 letters, digits, _ and -"
        raise ParameterError(name, message)
    if not isinstance(about.get("strict"), bool | None):
        raise ParameterError(name, f"{name}.json_schema.strict: expected true or false")
    return [_guide("json_schema", about["schema"], name, bool(about.get("strict")))]
