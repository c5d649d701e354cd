"""What a request to a language model may say: prompts, sampling, stops, token ids."""

from collections.abc import Mapping
from typing import Any

from cupola.errors import InputError
from cupola.generation import SamplingParams

KINDS: Mapping[str, type[int] | type[float]] = {
    "max_tokens": int,
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "min_p": float,
    "repetition_penalty": float,
    "frequency_penalty": float,
    "presence_penalty": float,
    "min_tokens": int,
    "top_logprobs": int,
    "seed": int,
}
FLAGS = ("logprobs", "prompt_logprobs", "ignore_eos")


def as_text(value: Any) -> str:
    """A prompt as text; InputError for bytes that are not UTF-8."""
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"prompt: not valid UTF-8 ({error.reason})") from None
    if not isinstance(value, str):
        raise InputError(f"prompt: expected text, got {type(value).__name__}")
    return value


def read_sampling(
    parameters: Mapping[str, Any], row: int = 0, stop_ids: tuple[int, ...] = ()
) -> SamplingParams:
    """The sampling fields among a request's parameters; None means the default."""
    names = {int: "an integer", float: "a number"}
    values: dict[str, Any] = {}
    for name, kind in KINDS.items():
        value = parameters.get(name)
        if value is None:
            continue
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or value != value or abs(value) > 2**63 or kind(value) != value:
            raise InputError(f"{name}: expected {names[kind]}, got {value!r}")
        values[name] = kind(value)
    values["seed"] = values.get("seed", 0) + row
    values |= {name: bool(parameters.get(name)) for name in FLAGS}
    bias = read_bias(parameters.get("logit_bias"))
    allowed = read_ids("allowed_token_ids", parameters.get("allowed_token_ids"))
    return SamplingParams(
        **values, logit_bias=bias, stop_token_ids=stop_ids, allowed_token_ids=allowed
    )


def read_ids(name: str, value: Any) -> tuple[int, ...]:
    """A parameter that lists token ids; None is no list."""
    if value is None:
        return ()
    good = isinstance(value, list | tuple) and all(type(each) is int for each in value)
    if not good or not value:
        raise InputError(f"{name}: expected a list of token ids, got {value!r:.60}")
    return tuple(sorted(set(value)))


def truncated(ids: list[int], parameters: Mapping[str, Any], limit: int) -> list[int]:
    """The last `truncate_prompt_tokens` of a prompt; -1: as many as fit before max_tokens."""
    name, value = "truncate_prompt_tokens", parameters.get("truncate_prompt_tokens")
    if value is None:
        return ids
    if type(value) is not int or value == 0 or not -1 <= value <= limit:
        raise InputError(f"{name}: expected -1 or 1 to {limit}, got {value!r:.30}")
    if value > 0:
        return ids[-value:]
    given = parameters.get("max_tokens")
    default = 1 if parameters.get("whole_context") else SamplingParams.max_tokens
    return ids[-max(limit - (given if type(given) is int else default), 1) :]


def read_bias(value: Any) -> tuple[tuple[int, float], ...]:
    """The logit_bias of a request: what is added, -100 to 100, by token id."""
    found = {} if value is None else value
    if not isinstance(found, Mapping):
        raise InputError(f"logit_bias: expected an object, got {value!r:.60}")
    pairs = []
    for key, bias in found.items():
        is_number = isinstance(bias, int | float) and not isinstance(bias, bool)
        if not str(key).isdecimal() or len(str(key)) > 9 or not is_number or not abs(bias) <= 100:
            raise InputError(
                f"logit_bias: expected token ids with numbers in -100..100, got {key!r:.30}: "
                f"{bias!r:.30}"
            )
        pairs.append((int(key), float(bias)))
    return tuple(pairs)


def read_stop(value: Any) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The stop strings and token ids of a request, given as None, one string, or a list."""
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(stops, list | tuple):
        raise InputError(f"stop: expected a text or a list of texts, got {value!r}")
    strings = tuple(each for each in stops if isinstance(each, str) and each)
    ids = tuple(each for each in stops if type(each) is int)
    if len(strings) + len(ids) < len(stops):
        raise InputError(f"stop: expected a text or a list of texts, got {value!r}")
    return strings, ids
