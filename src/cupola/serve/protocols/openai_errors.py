"""Errors in the form of OpenAI's API."""

from dataclasses import dataclass

from cupola.serve.http.messages import HTTPError


class ParameterError(HTTPError):
    """A parameter that cannot be used, with OpenAI's `param` and `code`."""

    def __init__(self, param: str | None, message: str, code: str | None = None) -> None:
        super().__init__(400, message)
        self.param, self.code = param, code


@dataclass
class ErrorDetails:
    message: str
    type: str
    param: str | None
    code: str | None


@dataclass
class OpenAIError:
    error: ErrorDetails
