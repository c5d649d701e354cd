"""Tools in OpenAI's API: what a request offers, and the calls in a text that a model writes."""

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cupola.serve.protocols.openai_errors import ParameterError

MOST_TOOLS = 128
NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
Tool = dict[str, Any]


@dataclass(frozen=True)
class ToolRequest:
    """The tools of a request. `callable` are the functions that may be called.

    mode: "none", "auto", "required" (at least one call) or "named" (exactly one).
    """

    tools: list[Tool]
    callable: list[Tool]
    mode: str
    parallel: bool

    def grammar(self) -> dict[str, Any]:
        """The parameter `tool_grammar` of the model."""
        mode = "auto" if self.mode == "auto" else "required"
        parallel = self.parallel and self.mode != "named"
        return {"functions": self.callable, "mode": mode, "parallel": parallel}


def read_tools(tools: list[Tool], choice: Any, parallel: bool) -> ToolRequest | None:
    """The request for tools, None without any. ParameterError if it is wrong."""
    if not tools:
        if choice not in (None, "none", "auto"):
            raise ParameterError("tool_choice", "tool_choice: needs tools")
        return None
    if len(tools) > MOST_TOOLS:
        raise ParameterError("tools", f"tools: at most {MOST_TOOLS}, got {len(tools)}")
    functions = [_function(tool, number) for number, tool in enumerate(tools)]
    names = [each["name"] for each in functions]
    if len(set(names)) < len(names):
        raise ParameterError("tools", "tools: two functions have the same name")
    mode, allowed = _choice("auto" if choice is None else choice, names)
    chosen = [each for each in functions if each["name"] in allowed]
    return ToolRequest(tools, chosen, mode, parallel)


def _function(tool: Tool, number: int) -> dict[str, Any]:
    where = f"tools.{number}"
    if tool.get("type") != "function":
        kind = tool.get("type")
        message = f"{where}.type: only 'function' is supported, got {kind!r:.40}"
        raise ParameterError("tools", message, "unsupported_value")
    function = tool.get("function")
    if not isinstance(function, dict):
        raise ParameterError("tools", f"{where}.function: expected an object")
    name = function.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        expected = "1 to 64 letters, digits, _ and -"
        message = f"{where}.function.name: expected {expected}, got {name!r:.80}"
        raise ParameterError("tools", message)
    if not isinstance(function.get("parameters"), dict | None):
        raise ParameterError("tools", f"{where}.function.parameters: expected a JSON schema")
    if not isinstance(function.get("strict"), bool | None):
        raise ParameterError("tools", f"{where}.function.strict: expected true or false")
    return {key: function.get(key) for key in ("name", "parameters", "strict")}


def _choice(choice: Any, names: list[str]) -> tuple[str, list[str]]:
    """The mode, and the names of the functions that may be called."""
    if choice in ("none", "auto", "required"):
        return choice, names
    if isinstance(choice, Mapping) and choice.get("type") == "function":
        return "named", [_known(choice, names)]
    details = choice.get("allowed_tools") if isinstance(choice, Mapping) else None
    if isinstance(details, Mapping) and details.get("mode") in ("auto", "required"):
        listed = details.get("tools")
        if isinstance(listed, list) and listed:
            return details["mode"], [_known(tool, names) for tool in listed]
    expected = "'none', 'auto', 'required' or the name of a function"
    raise ParameterError("tool_choice", f"tool_choice: expected {expected}, got {choice!r:.80}")


def _known(choice: Any, names: list[str]) -> str:
    function = choice.get("function") if isinstance(choice, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if name not in names:
        raise ParameterError("tool_choice", f"tool_choice: {name!r:.80} is not one of the tools")
    return str(name)


@dataclass
class CallParser:
    """Divides a text, as it is written, into content and calls in the model's format.

    A grammar has kept the text to the format, so this only looks for the places where parts end.
    """

    form: Mapping[str, Any]  # CallFormat as the runner describes it
    count: int = 0  # of calls so far
    _part: str = "content"
    _held: str = ""
    _content: bool = False
    _scanner: "JSONScanner" = field(default_factory=lambda: JSONScanner())

    def add(self, text: str, last: bool) -> tuple[str, list[dict[str, Any]]]:
        """The content that became certain, and pieces of calls as in `delta.tool_calls`."""
        self._held += text
        content, calls = "", {}
        while True:
            if self._part == "content":
                piece, found = self._until_call(last)
                content += piece if not self.count else ""  # between calls there is no content
                if not found:
                    break
            elif self._part == "name":
                name, middle, rest = self._held.partition(self.form["middle"])
                if not middle:
                    break
                self._held, self._part, self._scanner = rest, "arguments", JSONScanner()
                calls[self.count] = _begun(self.count, name, self.form["id_size"])
                self.count += 1
            else:
                size = self._scanner.scan(self._held)
                piece, self._held = self._held[:size], self._held[size:]
                index = self.count - 1
                call = calls.setdefault(index, {"index": index, "function": {"arguments": ""}})
                call["function"]["arguments"] += piece
                if not self._scanner.ended:
                    break
                self._part = "content"
        self._content = self._content or bool(content)
        return content, [call for call in calls.values() if _says_something(call)]

    def _until_call(self, last: bool) -> tuple[str, bool]:
        """The text before the next call, and whether there is one."""
        begin = (self.count and self.form["again"]) or self.form["begin"]
        begins = not self._content and begin.startswith(self._held[: len(begin)])
        if self.form["leading"] and not self.count and not begins:
            begin = ""  # no call can come any more
        before, found, rest = self._held.partition(begin) if begin else (self._held, "", "")
        if found:
            self._held, self._part = rest, "name"
            return before, True
        kept = 0 if last else overlap(before, begin)
        self._held = before[len(before) - kept :]
        return before[: len(before) - kept], False


def _begun(index: int, name: str, size: int) -> dict[str, Any]:
    identity = f"{'call_' if size == 24 else ''}{uuid.uuid4().hex[:size]}"
    function = {"name": name, "arguments": ""}
    return {"index": index, "id": identity, "type": "function", "function": function}


def _says_something(call: dict[str, Any]) -> bool:
    return "id" in call or bool(call["function"]["arguments"])


def overlap(text: str, begin: str) -> int:
    """Length of the longest end of `text` that `begin` begins with."""
    longest = min(len(text), max(len(begin) - 1, 0))
    return next((n for n in range(longest, 0, -1) if begin.startswith(text[-n:])), 0)


@dataclass
class JSONScanner:
    """Finds the end of a JSON object that comes in pieces."""

    depth: int = 0
    quoted: bool = False
    escaped: bool = False
    ended: bool = False

    def scan(self, text: str) -> int:
        """How many characters of `text` belong to the object."""
        for place, letter in enumerate(text):
            if self.quoted:
                self.quoted = self.escaped or letter != '"'
                self.escaped = letter == "\\" and not self.escaped
            elif letter == '"':
                self.quoted = True
            elif letter in "{[":
                self.depth += 1
            elif letter in "}]":
                self.depth -= 1
                if self.depth == 0:
                    self.ended = True
                    return place + 1
        return len(text)
