"""Deterministic streams through the server: in a crowd, and past the death of their runner."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from serve_harness import Running, until

from cupola.runtime import Predictor
from language_toys import language_bundle
from lazy import LazyModule

httpx = LazyModule("httpx")
openai = LazyModule("openai")
pytestmark = [pytest.mark.processes, pytest.mark.slow]
TOKENS = 150


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return language_bundle(tmp_path_factory.mktemp("bundles") / "toy-text").path


@pytest.fixture(scope="module")
def server(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    models = [{"bundle": str(bundle), "deterministic": True, "lookup_tokens": 3}]
    running = Running(tmp_path_factory.mktemp("server"), models=models, plugins=[])
    running.start()
    running.wait_ready()
    yield running
    running.stop()


def alone(bundle: Path, prompt: str, seed: int) -> list[tuple[str, float]]:
    """Tokens and logprobs of one request on a predictor of its own, one token a step."""
    predictor: Any = Predictor.load(bundle)
    predictor.reproducible, predictor.chunk = True, 3
    how = {"max_tokens": TOKENS, "temperature": 1.0, "seed": seed, "logprobs": True}
    stream = predictor.open_stream()
    stream.add("x", predictor.sample(prompt, {**how, "ignore_eos": True}))
    found = []
    while stream.active:
        found += [(chunk.data["token"], chunk.data["logprob"]) for chunk in stream.step()]
    return found


def streamed(
    server: Running, prompt: str, seed: int, kill: int | None = None
) -> list[tuple[str, float]]:
    """The same through the server, whose runner is killed after `kill` chunks."""
    url = f"http://127.0.0.1:{server.port}/v1"
    found: list[tuple[str, float]] = []
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        chunks = client.completions.create(
            model="toy-text", prompt=prompt, max_tokens=TOKENS, seed=seed, temperature=1.0,
            logprobs=0, stream=True, extra_body={"ignore_eos": True},
        )  # fmt: skip
        for number, chunk in enumerate(chunks):
            logprobs = chunk.choices[0].logprobs
            found += zip(logprobs.tokens, logprobs.token_logprobs, strict=True)
            if number == kill:
                os.kill(server.runner_pid(), signal.SIGKILL)
    return found


def check_kills(server: Running, bundle: Path, kills: int) -> None:
    """One stream beside another for each kill."""
    for seed in range(kills):
        prompt = "It is a truth"[: 3 + seed]
        before = server.runner_pid()
        with ThreadPoolExecutor() as pool:
            other = pool.submit(streamed, server, "床前明月光", seed)
            found = streamed(server, prompt, seed, kill=5 + 9 * seed)
            assert other.result() == alone(bundle, "床前明月光", seed)
        assert found == alone(bundle, prompt, seed)
        assert len(found) == TOKENS
        until(lambda pid=before: not psutil.pid_exists(pid))
        server.wait_ready()


def test_streams_in_a_crowd_are_those_of_one(server: Running, bundle: Path) -> None:
    prompts = ["It is", "床前明月光", "It is a truth universally", "It is a truth", "w", "低头"]
    with ThreadPoolExecutor(len(prompts)) as pool:
        found = pool.map(lambda pair: streamed(server, pair[1], pair[0]), enumerate(prompts))
    for seed, (prompt, texts) in enumerate(zip(prompts, found, strict=True)):
        assert texts == alone(bundle, prompt, seed)


def test_metrics_count_what_was_reused(server: Running, bundle: Path) -> None:
    prompt = "It is a truth universally acknowledged, that a single man must be in want " * 2
    before = counted(server)
    for _ in range(2):
        assert streamed(server, prompt, 7) == alone(bundle, prompt, 7)
    until(lambda: counted(server)["generated"] - before["generated"] == 2 * TOKENS)
    found = counted(server)
    assert 0 < found["reused"] - before["reused"] < found["prompt"] - before["prompt"]


def counted(server: Running) -> dict[str, float]:
    """The counters of tokens, by kind."""
    text = httpx.get(f"http://127.0.0.1:{server.port}/metrics", timeout=60).text
    found = dict.fromkeys(("prompt", "reused", "generated"), 0.0)
    for line in text.splitlines():
        if line.startswith("cupola_tokens_total"):
            kind = line.partition('kind="')[2].partition('"')[0]
            found[kind] += float(line.rpartition(" ")[2])
    return found


def test_a_stream_goes_on_to_the_bit_when_its_runner_is_killed(
    server: Running, bundle: Path
) -> None:
    check_kills(server, bundle, 1)


@pytest.mark.slow
def test_ten_kills(server: Running, bundle: Path) -> None:
    check_kills(server, bundle, 10)
