"""The HTML page: one file that needs no network, and that no text of a model can inject into."""

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from cupola.inspect.describe import ModelDescription
from cupola.inspect.node import Node
from cupola.inspect.sources import class_source

STYLE = "explain.css"
SCRIPTS = (
    "tree.js",
    "detail.js",
    "flow.js",
    "state.js",
    "attention.js",
    "matching.js",
    "cameras.js",
    "sampling.js",
    "language.js",
    "field.js",
    "engines.js",
    "story.js",
)


def page(
    description: ModelDescription,
    title: str,
    view: Mapping[str, Any] | None = None,
    engines: Mapping[str, Any] | None = None,
) -> str:
    """A self-contained page about a model; `view` is that of image_view.py or cameras_view.py.

    engines: "machine", and "rows" of "engine", "runs" ("yes" or why not), "ms" or None,
    "difference" and "chosen".

    The data is one JSON script element without any `<`, and the scripts insert it as text only.
    """
    data = {
        "title": title,
        "summary": description.summary(),
        "nodes": [_row(node) for node in description.root.walk()],
        "story": _story(description),
        "sources": _sources(description),
        "configs": _configs(description),
        "inputs": description.seen.inputs if description.seen else {},
        "view": dict(view) if view else None,
        "engines": dict(engines) if engines else None,
    }
    web = files("cupola.inspect") / "web"
    style, *scripts = (web.joinpath(name).read_text("utf-8") for name in (STYLE, *SCRIPTS))
    template = web.joinpath("explain.html").read_text("utf-8")
    template = template.replace("/*STYLE*/", style).replace("/*SCRIPT*/", "\n".join(scripts))
    return template.replace("/*DATA*/", embed(data))


def embed(data: Any) -> str:
    """JSON for a script element: no tag can begin or end inside it."""
    text = json.dumps(data, ensure_ascii=False, default=str, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _row(node: Node) -> dict[str, Any]:
    row: dict[str, Any] = {
        "path": node.path,
        "cls": node.class_name,
        "full": node.cls,
        "source": node.source,
        "params": node.parameters,
        "own": node.own_parameters,
        "shared": node.shared_with,
    }
    if node.state:
        row["state"] = node.state
    if node.hooks:
        row["hooks"] = node.hooks
    if node.visit is not None:
        visit = node.visit
        row |= {"in": visit.shape_in, "out": visit.shape_out, "flops": visit.flops}
        row |= {"bytes": visit.activation_bytes, "ms": round(visit.seconds * 1000, 3)}
        row |= {"calls": visit.calls}
    if node.flow is not None:
        row |= {"flow": [list(node.flow.names), [list(edge) for edge in node.flow.edges]]}
        row |= {"ownFlops": node.own_flops, "ownWeights": node.own_weights}
    if node.part is not None:
        part = node.part
        row |= {"by": part.made_by, "at": part.made_at, "name": part.name, "config": part.config}
    return row


def _story(description: ModelDescription) -> list[dict[str, Any]]:
    """The steps of the build, helpers included."""
    parts = description.build_record.parts if description.build_record else ()
    return [
        {
            "path": part.path,
            "cls": part.class_name,
            "by": part.made_by,
            "at": part.made_at,
            "ms": round(part.seconds * 1000, 3),
            "module": part.module,
        }
        for part in parts
    ]


def _sources(description: ModelDescription) -> dict[str, Any]:
    kinds = {node.cls: node.python_class for node in description.root.walk()}
    return {name: source for name, kind in kinds.items() if (source := class_source(kind))}


def _configs(description: ModelDescription) -> dict[str, Any]:
    """Per path in the config: its dict as text lines, each with its line in a config file."""
    build_record = description.build_record
    if build_record is None:
        return {}
    found: dict[str, Any] = {}
    for part in build_record.parts:
        value = build_record.config_of(part)
        if part.config is not None and isinstance(value, Mapping) and part.config not in found:
            origins = build_record.origins_of(part)
            found[part.config] = [
                [str(key), json.dumps(item, ensure_ascii=False, default=str), origins.get(key, "")]
                for key, item in value.items()
            ]
    return found
