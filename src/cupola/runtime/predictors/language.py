"""LanguagePredictor: prompts -> completions, at once or streamed token by token."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from cupola.bundles import Bundle
from cupola.errors import BundleError, InputError
from cupola.files import tokenizer as files
from cupola.files.adapters import base_folder, is_adapter
from cupola.files.chat import ChatTemplate, read_chat_template
from cupola.generation import Scheduler
from cupola.generation.guide import Guides
from cupola.generation.tensor_parallel import Driver, StepOrder
from cupola.runtime.devices import CPU
from cupola.runtime.optimize.language import optimize
from cupola.runtime.predictor import Arrays, Predictor, TensorSpec
from cupola.runtime.predictors.grammars import check_grammar, read_guide, read_tools
from cupola.runtime.predictors.language_parameters import (
    as_text,
    read_sampling,
    read_stop,
    truncated,
)
from cupola.runtime.predictors.language_stream import LanguageEngine, LanguageSample

MOST_PROMPTS = 8  # of a bundle that a server tells its pages


@dataclass(frozen=True)
class Completion:
    """A finished text. `finish_reason`: "stop" (end of text or stop string) or "length"."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    prompt_tokens: int
    logprobs: tuple[float, ...] = ()


@dataclass
class LanguagePredictor(Predictor):
    """A language model with its tokenizer. `predictor("Once", max_tokens=40)` -> Completion."""

    tokenizer: Any = None
    cache_tokens: int = 8192
    chunk: int = 256
    chat_template: ChatTemplate | None = None
    optimization: str = "none"  # see runtime/optimize/language.py
    storages: Mapping[str, str] | None = None  # of the matrices, as measured; None: the usual ones
    reproducible: bool = False  # the setting `deterministic`
    lookup_tokens: int = 0  # that are guessed from the text so far; see generation/prompt_lookup.py
    send: Callable[[StepOrder], None] | None = None  # from rank 0 of a group to the other ranks
    device: torch.device = CPU
    _numbers: Iterator[int] = field(default_factory=count, repr=False)
    _applied: tuple[Any, ...] | None = field(default=None, repr=False)

    task: ClassVar[str] = "language"
    max_batch: ClassVar[int] = 32

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return (TensorSpec("prompt", "BYTES", (-1,)),)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return (
            TensorSpec("text", "BYTES", (-1,)),
            TensorSpec("finish_reason", "BYTES", (-1,)),
            TensorSpec("prompt_tokens", "INT64", (-1,)),
            TensorSpec("completion_tokens", "INT64", (-1,)),
        )

    @property
    def context_length(self) -> int:
        """The most tokens that a prompt and its continuation may have."""
        return min(self.cache_tokens, self.model.settings.max_length or self.cache_tokens)

    @property
    def details(self) -> Mapping[str, Any]:
        """The context length, how the model writes calls of tools (None: it has none), prompts.

        The prompts are those of the bundle's config, for pages that offer some.
        """
        form = self.chat_template.call_format if self.chat_template else None
        return {
            "context_length": self.context_length,
            "calls": asdict(form) if form else None,
            "prompts": [str(prompt) for prompt in self.config.get("prompts", ())][:MOST_PROMPTS],
        }

    def __call__(self, prompt: str, **parameters: Any) -> Completion:
        """Continues one prompt; parameters as in `decode`."""
        completion: Completion = self.run([self.sample(prompt, parameters)])[0]
        return completion

    def decode(
        self, tensors: Mapping[str, Any], parameters: Mapping[str, Any]
    ) -> list[LanguageSample]:
        """One sample per element of `prompt`.

        Parameters: the fields of SamplingParams, `stop` (a string or a list of strings and token
        ids) and `echo`; `whole_context` without max_tokens goes to the end of the context. Several
        prompts of one request draw with seed, seed + 1, ... `prompt_token_ids` or `messages` (a
        chat, for the folder's template, with `tools` and `chat_template_kwargs`) replace a single
        prompt, of which the last `truncate_prompt_tokens` are kept. `guide` and `tool_grammar` (see
        grammars.py) and `bad_words` (texts) restrict the text. With `special_tokens` it has the
        names of special tokens, with `include_stop_str_in_output` the stop string that ended it.
        """
        if "prompt" not in tensors:
            raise InputError("prompt: expected an array of texts")
        prompts = np.atleast_1d(np.asarray(tensors["prompt"], dtype=object)).ravel()
        if parameters.get("prompt_token_ids") is not None:
            return [self.sample(parameters["prompt_token_ids"], parameters)]
        if parameters.get("messages") is not None and self.chat_template is not None:
            text = self.chat_template.render(
                parameters["messages"],
                parameters.get("tools"),
                parameters.get("chat_template_kwargs"),
            )
            return [self.sample(self.tokenizer.encode(text, special=False).ids, parameters)]
        return [self.sample(as_text(p), parameters, row) for row, p in enumerate(prompts)]

    def sample(
        self, prompt: str | Sequence[int], parameters: Mapping[str, Any], row: int = 0
    ) -> LanguageSample:
        """A validated sample from a text or from token ids."""
        ids = self.tokenizer.encode(prompt).ids if isinstance(prompt, str) else list(prompt)
        if not ids:
            raise InputError("prompt: must not be empty")
        if not all(type(token) is int for token in ids):
            raise InputError("prompt: expected token ids, which are integers")
        if not 0 <= min(ids) <= max(ids) < self.model.settings.vocab_size:
            raise InputError(
                f"prompt: its token {max(ids) if min(ids) >= 0 else min(ids)} is not one of the "
                f"model's {self.model.settings.vocab_size}"
            )
        limit = self.context_length
        ids = truncated(ids, parameters, limit)
        if parameters.get("whole_context") and parameters.get("max_tokens") is None:
            parameters = {**parameters, "max_tokens": max(limit - len(ids), 1)}
        strings, stop_ids = read_stop(parameters.get("stop"))
        sampling = read_sampling(parameters, row, stop_ids)
        words = self._bad_words(parameters.get("bad_words"))
        sampling = replace(sampling, grammar=self._grammar(parameters), bad_words=words)
        for name, listed in (
            ("logit_bias", [token for token, _ in sampling.logit_bias]),
            ("stop", sampling.stop_token_ids),
            ("allowed_token_ids", sampling.allowed_token_ids),
        ):
            for token in listed:
                if not 0 <= token < self.model.settings.vocab_size:
                    raise InputError(f"{name}: {token} is not one of the model's token ids")
        if len(ids) + sampling.max_tokens > limit:
            requested = f"{len(ids)} in the prompt and {sampling.max_tokens} to be generated"
            raise InputError(  # in OpenAI's words, which clients look for
                f"prompt: this model's maximum context length is {limit} tokens, but "
                f"{len(ids) + sampling.max_tokens} were requested ({requested})"
            )
        special = bool(parameters.get("special_tokens") or parameters.get("tool_grammar"))
        keep_stop = bool(parameters.get("include_stop_str_in_output"))
        echo = bool(parameters.get("echo"))
        return LanguageSample(tuple(ids), sampling, strings, echo, special, keep_stop)

    def _bad_words(self, words: Any) -> tuple[tuple[int, ...], ...]:
        """The token ids of each text, as it is written at the beginning of a line and after it."""
        listed = [] if words is None else words
        if not isinstance(listed, list | tuple) or not all(
            isinstance(word, str) and word.strip() for word in listed
        ):
            raise InputError(f"bad_words: expected a list of texts, got {words!r:.60}")
        forms = [form for word in listed for form in (word.lstrip(), " " + word.lstrip())]
        found = [tuple(self.tokenizer.encode(form, special=False).ids) for form in forms]
        return tuple(dict.fromkeys(ids for ids in found if ids))

    def _grammar(self, parameters: Mapping[str, Any]) -> str:
        """The grammar that a request's text follows; empty without one."""
        grammar, name = None, "tools"
        if parameters.get("guide") is not None:
            grammar, name = read_guide(parameters["guide"])
        if parameters.get("tool_grammar") is not None:
            form = self.chat_template.call_format if self.chat_template else None
            if form is None:
                raise InputError("tools: this model's chat template has no tools")
            special = {
                added.content: number
                for number, added in self.tokenizer.get_added_tokens_decoder().items()
                if added.special
            }
            grammar = read_tools(parameters["tool_grammar"], form, grammar, special)
        if grammar is None:
            return ""
        check_grammar(self.guides, grammar, name)
        return grammar

    @cached_property
    def guides(self) -> Guides:
        """The compiled grammars of this model's requests."""
        return Guides(self.tokenizer, self.model.settings.end_token_ids)

    def prepare(self) -> None:
        """Makes the tables of the tokenizer for grammars: some seconds for 250,000 tokens."""
        with suppress(InputError):  # requests with a grammar say why it has none
            _ = self.guides.tokenizer

    def run(self, samples: Sequence[LanguageSample]) -> list[Completion]:
        """Completes all samples together."""
        engine = self.open_stream()
        for row, sample in enumerate(samples):
            engine.add(str(row), sample)
        pieces: list[list[Mapping[str, Any]]] = [[] for _ in samples]
        while engine.active:
            for chunk in engine.step():
                if chunk.error:
                    raise InputError(chunk.error)
                if "waiting" not in chunk.data:
                    pieces[int(chunk.request_id)].append(chunk.data)
        engine.close()
        return [_join(sample, part) for sample, part in zip(samples, pieces, strict=True)]

    def encode(self, predictions: Sequence[Completion], parameters: Mapping[str, Any]) -> Arrays:
        """The arrays `text`, `finish_reason`, `prompt_tokens` and `completion_tokens`."""
        return {
            "text": _bytes([each.text for each in predictions]),
            "finish_reason": _bytes([each.finish_reason for each in predictions]),
            "prompt_tokens": np.array([each.prompt_tokens for each in predictions], np.int64),
            "completion_tokens": np.array([len(p.token_ids) for p in predictions], np.int64),
        }

    def open_stream(self) -> LanguageEngine:
        """An engine whose chunks are described in language_stream.py."""
        scheduler = self.new_scheduler()
        if self.send is None:
            return LanguageEngine(scheduler, self.tokenizer)
        return LanguageEngine(Driver(scheduler, next(self._numbers), self.send), self.tokenizer)

    def new_scheduler(self) -> Scheduler:
        """A scheduler with an empty cache, over the model with its `optimization` applied."""
        self.apply_optimization()
        return Scheduler(
            self.model,
            cache_tokens=self.cache_tokens,
            chunk=self.chunk,
            max_requests=self.max_batch,
            lookup_tokens=self.lookup_tokens,
            guides=self.guides if self.tokenizer is not None else None,
        )

    def apply_optimization(self) -> None:
        """Brings the model into the form that `optimization` names."""
        wanted = (self.optimization, self.storages, self.reproducible, self.device)
        if wanted != self._applied:
            optimize(self.model, self.optimization, self.reproducible, self.storages)
            self._applied = wanted


def _join(sample: LanguageSample, pieces: Sequence[Mapping[str, Any]]) -> Completion:
    return Completion(
        "".join(piece["text"] for piece in pieces),
        tuple(piece["token_id"] for piece in pieces if piece["token_id"] is not None),
        pieces[-1]["finish_reason"],
        len(sample.ids),
        tuple(piece["logprob"] for piece in pieces if "logprob" in piece),
    )


def _bytes(texts: Sequence[str]) -> np.ndarray[Any, Any]:
    array = np.empty(len(texts), dtype=object)
    array[:] = [text.encode() for text in texts]
    return array


def from_bundle(bundle: Bundle, model: Any) -> LanguagePredictor:
    """The predictor of a language bundle, which has a tokenizer.json."""
    return LanguagePredictor(
        bundle.name,
        bundle.version,
        model,
        bundle.config,
        tokenizer=read_tokenizer(bundle.path),
        chat_template=_chat_template(bundle.path),
        **bundle.config.get("generation", {}),
    )


def _chat_template(folder: Path) -> ChatTemplate | None:
    found = read_chat_template(folder)
    if found is None and is_adapter(folder):
        found = read_chat_template(base_folder(folder))
    return found


def read_tokenizer(folder: Path) -> Any:
    """The folder's tokenizer.json, or that of an adapter's base.

    BundleError if there is none, or if it is unusable.
    """
    path = folder / "tokenizer.json"
    if not path.is_file() and is_adapter(folder):
        path = base_folder(folder) / "tokenizer.json"
    if not path.is_file():
        raise BundleError(f"{folder}: contains no tokenizer.json, which a language model needs")
    return files.read_tokenizer(path, BundleError)
