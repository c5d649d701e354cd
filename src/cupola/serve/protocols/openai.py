"""OpenAI's endpoints for language models: /v1/models, /v1/completions, /v1/chat/completions.

Every answer is generated as a stream of tokens; without `stream` it is collected first. Streamed
responses are chunked, so a client can tell a broken stream from a finished one.
"""

from typing import Any, TypeVar

from pydantic import ValidationError

from cupola.serve.http.messages import HTTPError, Request, Response, json_response
from cupola.serve.http.routing import JSON, Content, Route
from cupola.serve.protocols.openai_completion import CHAT, TEXT, Completion, CompletionFormat
from cupola.serve.protocols.openai_schemas import (
    ChatRequest,
    CompletionRequest,
    GenerationRequest,
    ModelList,
    OpenAIError,
    error_details,
)
from cupola.serve.worker.context import WorkerContext

T = TypeVar("T", bound=GenerationRequest)


def error_body(error: HTTPError) -> dict[str, Any]:
    """The body of an error response."""
    return {"error": error_details(error)}


def models(context: WorkerContext, request: Request) -> Response:
    """The language models."""
    data = [
        {"id": name, "object": "model", "created": 0, "owned_by": "cupola"}
        for name, versions in context.directory.models.items()
        if any(model.description.get("task") == "language" for model in versions.values())
    ]
    return json_response(ModelList(data))


async def completions(context: WorkerContext, request: Request) -> Response:
    body = _parse(CompletionRequest, request)
    prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    if not prompts:
        raise HTTPError(400, "prompt: expected at least one")
    return await _respond(context, request, body, prompts, TEXT)


async def chat(context: WorkerContext, request: Request) -> Response:
    body = _parse(ChatRequest, request)
    turns = [f"{message.role}: {message.text}\n" for message in body.messages]
    return await _respond(context, request, body, ["".join(turns) + "assistant:"], CHAT)


def _parse(kind: type[T], request: Request) -> T:
    try:
        return kind.model_validate(request.json())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise HTTPError(400, f"{where}: {first['msg']}") from None


async def _respond(
    context: WorkerContext,
    request: Request,
    body: GenerationRequest,
    prompts: list[str],
    form: CompletionFormat,
) -> Response:
    model = context.directory.find(body.model)
    if model.description.get("task") != "language":
        raise HTTPError(400, f"{body.model!r} is not a language model")
    choices = [prompt for prompt in prompts for _ in range(body.n)]
    completion = Completion(context, request, model, body, form)
    if body.stream:
        return await completion.stream(choices)
    return await completion.collect(choices)


_COMPLETION: Content = {JSON: {"type": "object"}, "text/event-stream": {"type": "string"}}
_DETAILS: dict[str, Any] = {
    "responses": {200: _COMPLETION},
    "errors": (400, 404, 429, 500, 503, 504),
    "error_body": OpenAIError,
}
ROUTES = [
    Route("GET", "/v1/models", models, "Language models", "openai", {200: ModelList}),
    Route("POST", "/v1/completions", completions, "Continue a text", "openai",
          request={JSON: CompletionRequest}, **_DETAILS),
    Route("POST", "/v1/chat/completions", chat, "Answer in a chat", "openai",
          request={JSON: ChatRequest}, **_DETAILS),
]  # fmt: skip
