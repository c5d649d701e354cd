"""The API description (OpenAPI 3.1), derived from the routes."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from pydantic import TypeAdapter

from cupola.serve.http.routing import JSON, Content, Parameter, Route, Schema

ERRORS = {
    400: "The request is invalid.",
    401: "No valid API key.",
    403: "The admin endpoints are off, or the API key is not for this.",
    404: "No such model or path.",
    413: "The body is too large.",
    415: "The content encoding is not supported.",
    429: "Too many requests, of this client or in all; see Retry-After.",
    500: "The model failed.",
    503: "Not ready.",
    504: "The deadline passed.",
}
_REFERENCE = "#/components/schemas/{model}"


def describe(info: Mapping[str, Any], routes: Sequence[Route]) -> dict[str, Any]:
    """The OpenAPI document of all routes that declare responses."""
    components: dict[str, Any] = {}
    paths: dict[str, Any] = {}
    for route in routes:
        if route.responses is not None:
            item = paths.setdefault(route.path, {})
            if in_path := [_parameter(p) for p in route.parameters if p.location == "path"]:
                item["parameters"] = in_path
            item[route.method.lower()] = _operation(route, components)
    return {
        "openapi": "3.1.0",
        "info": dict(info),
        "paths": paths,
        "components": {"schemas": dict(sorted(components.items()))},
    }


def _operation(route: Route, components: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {"summary": route.summary, "tags": [route.tag]}
    if in_header := [_parameter(p) for p in route.parameters if p.location == "header"]:
        operation["parameters"] = in_header
    if route.request is not None:
        operation["requestBody"] = {
            "required": route.request_required,
            "content": _content(route.request, components),
        }
    assert route.responses is not None
    responses = {}
    for status, content in route.responses.items():
        found = content if isinstance(content, Mapping) else {JSON: content}
        responses[str(status)] = _response(HTTPStatus(status).phrase, found, components)
    access = () if route.public else (401, 403, 429)
    for status in sorted({*route.errors, *access} - set(route.responses)):
        content = {JSON: route.error_body}
        responses[str(status)] = _response(ERRORS[status], content, components)
    return operation | {"responses": responses}


def _parameter(parameter: Parameter) -> dict[str, Any]:
    described: dict[str, Any] = {"name": parameter.name, "in": parameter.location}
    if parameter.location == "path":
        described["required"] = True
    if parameter.description:
        described["description"] = parameter.description
    return described | {"schema": parameter.schema}


def _response(text: str, content: Content, components: dict[str, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {"description": text}
    return described | ({"content": _content(content, components)} if content else {})


def _content(content: Content, components: dict[str, Any]) -> dict[str, Any]:
    return {kind: {"schema": _schema(found, components)} for kind, found in content.items()}


def _schema(schema: Schema, components: dict[str, Any]) -> dict[str, Any]:
    """The schema itself, or a reference to the component that describes a class."""
    if isinstance(schema, dict):
        return schema
    derived = TypeAdapter(schema).json_schema(ref_template=_REFERENCE)
    components.update(derived.pop("$defs", {}))
    if derived.get("type") != "object":  # a list of a class
        return derived
    components[schema.__name__] = derived
    return {"$ref": _REFERENCE.format(model=schema.__name__)}
