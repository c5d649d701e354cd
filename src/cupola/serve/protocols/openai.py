"""OpenAI's endpoints for language models: /v1/models, /v1/completions, /v1/chat/completions.

Every answer is generated as a stream of tokens; without `stream` it is collected first. Streamed
responses are chunked, so a client can tell a broken stream from a finished one.
"""

from typing import Any, TypeVar

from pydantic import ValidationError

from cupola.serve.http.messages import HTTPError, Request, Response, json_response
from cupola.serve.http.routing import JSON, Content, Parameter, Route
from cupola.serve.protocols.openai_completion import (
    CHAT,
    TEXT,
    Completion,
    CompletionFormat,
    Prompt,
)
from cupola.serve.protocols.openai_errors import OpenAIError, ParameterError
from cupola.serve.protocols.openai_schemas import (
    ChatRequest,
    CompletionRequest,
    GenerationRequest,
    ModelEntry,
    ModelList,
    error_details,
)
from cupola.serve.worker.context import WorkerContext
from cupola.serve.worker.dispatcher import admit
from cupola.serve.worker.runner_connections import Model

T = TypeVar("T", bound=GenerationRequest)


# What may be of several types: pydantic would say what each of them is not.
EXPECTED = {
    "prompt": "a text, a list of texts, token ids, or a list of lists of token ids",
    "stop": "a text, or a list of at most 16 texts and token ids",
    "content": "a text, or a list of content parts",
    "tool_choice": "a text or an object",
    "guided_json": "a JSON schema, as an object or as text",
}


def error_body(error: HTTPError) -> dict[str, Any]:
    """The body of an error response."""
    return {"error": error_details(error)}


def models(context: WorkerContext, request: Request) -> Response:
    """The language models."""
    data = [
        ModelEntry(name, 0)
        for name, versions in context.directory.models.items()
        if context.may_use(request, name)
        and any(model.description.get("task") == "language" for model in versions.values())
    ]
    return json_response(ModelList(data))


def model_entry(context: WorkerContext, request: Request, name: str) -> Response:
    """One language model."""
    _find(context, request, name)
    return json_response(ModelEntry(name, 0))


async def completions(context: WorkerContext, request: Request) -> Response:
    body = _parse(CompletionRequest, context, request)
    given: Any = body.prompt
    if isinstance(given, str) or (given and isinstance(given[0], int)):
        given = [given]
    if not given:
        raise ParameterError("prompt", "prompt: expected at least one")
    prompts = [
        Prompt(each, None) if isinstance(each, str) else Prompt("", tuple(each)) for each in given
    ]
    return await _respond(context, request, body, prompts, TEXT)


async def chat(context: WorkerContext, request: Request) -> Response:
    body = _parse(ChatRequest, context, request)
    turns = [f"{message.role}: {message.text}\n" for message in body.messages]
    prompt = Prompt("".join(turns) + "assistant:", None)  # for folders without a chat template
    if body.called_tools is not None and not _details(context, request, body.model).get("calls"):
        message = "tools: this model has no chat template with tools"
        raise ParameterError("tools", message, "unsupported_parameter")
    return await _respond(context, request, body, [prompt], CHAT)


def _parse(kind: type[T], context: WorkerContext, request: Request) -> T:
    try:
        found = kind.model_validate(request.json())
    except ValidationError as error:
        first = error.errors()[0]
        loc = [str(part) for part in first["loc"]]
        if not loc:
            raise ParameterError(None, "request body: expected a JSON object") from None
        code = "missing_required_parameter" if first["type"] == "missing" else "invalid_value"
        depth = 3 if loc[0] == "messages" else 1  # the rest is about one type of several
        expected = EXPECTED.get(loc[:depth][-1])
        if expected is None or first["type"] == "missing":
            raise ParameterError(loc[0], f"{'.'.join(loc)}: {first['msg']}", code) from None
        message = f"{'.'.join(loc[:depth])}: expected {expected}"
        raise ParameterError(loc[0], message, code) from None
    found.check(context.settings.openai_strict)
    return found


def _find(context: WorkerContext, request: Request, name: str) -> Model:
    model = context.find(request, name)
    if model.description.get("task") not in (None, "language"):
        raise ParameterError("model", f"{name!r} is not a language model")
    if "inputs" not in model.description:  # no runner has been ready yet
        admit(model)
        raise HTTPError(503, f"{name}: the model is being loaded", [("Retry-After", "1")])
    return model


def _details(context: WorkerContext, request: Request, name: str) -> dict[str, Any]:
    found: dict[str, Any] = _find(context, request, name).description.get("details", {})
    return found


async def _respond(
    context: WorkerContext,
    request: Request,
    body: GenerationRequest,
    prompts: list[Prompt],
    form: CompletionFormat,
) -> Response:
    completion = Completion(context, request, _find(context, request, body.model), body, form)
    if body.stream:
        return await completion.stream(prompts)
    return await completion.collect(prompts)


_COMPLETION: Content = {JSON: {"type": "object"}, "text/event-stream": {"type": "string"}}
_DETAILS: dict[str, Any] = {
    "responses": {200: _COMPLETION},
    "errors": (400, 404, 429, 500, 503, 504),
    "error_body": OpenAIError,
}
ROUTES = [
    Route("GET", "/v1/models", models, "Language models", "openai", {200: ModelList}),
    Route("GET", "/v1/models/{model_name}", model_entry, "A language model", "openai",
          {200: ModelEntry}, errors=(400, 404, 503), error_body=OpenAIError,
          parameters=[Parameter("model_name", "path", {"type": "string"})]),
    Route("POST", "/v1/completions", completions, "Continue a text", "openai",
          request={JSON: CompletionRequest}, **_DETAILS),
    Route("POST", "/v1/chat/completions", chat, "Answer in a chat", "openai",
          request={JSON: ChatRequest}, **_DETAILS),
]  # fmt: skip
