"""An untrusted tokenizer that panics on some prompts: one request fails, the runner lives."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from serve_harness import Running

from language_toys import language_bundle, panics_on_z
from lazy import LazyModule

httpx = LazyModule("httpx")
pytestmark = pytest.mark.processes


def test_a_prompt_on_which_the_tokenizer_panics_ends_alone(
    tmp_path: Path, serve: Callable[..., Running]
) -> None:
    toy = language_bundle(tmp_path / "toy-text").path
    content = json.loads((toy / "tokenizer.json").read_bytes())
    (toy / "tokenizer.json").write_text(json.dumps(content | {"normalizer": panics_on_z()}))
    running = serve(models=[str(toy)], plugins=[])
    url = f"http://127.0.0.1:{running.port}/v1/completions"
    ask = {"model": "toy-text", "max_tokens": 2, "temperature": 0}
    texts = []
    for prompt in ("It is", "It is z", "It is"):
        answer = httpx.post(url, json=ask | {"prompt": prompt}, timeout=60)
        texts.append((answer.status_code, answer.json()))
    assert [status for status, _ in texts] == [200, 400, 200]
    assert "out of bounds" in texts[1][1]["error"]["message"]
    assert texts[0][1]["choices"] == texts[2][1]["choices"]
