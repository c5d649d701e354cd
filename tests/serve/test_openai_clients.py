"""Other clients of OpenAI's API, each in an environment of its own, against a tiny random model.

Slow, for the environments are installed first. What the clients find out is in `clients/`.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serve_harness import Running

from environments import node_with, python_with
from language_toys import language_bundle

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(1200)]
SCRIPTS = Path(__file__).parent / "clients"
TEMPLATE = (
    "{% for t in tools or [] %}{{ t | tojson }}<tool_call>{% endfor %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("clients")
    toy = language_bundle(folder / "toy", "toy").path
    (toy / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    running = Running(folder / "server", models=[str(toy)], plugins=[])
    running.start()
    running.wait_ready(120)
    yield running
    running.stop()


def run(server: Running, command: list[Any], **variables: str) -> str:
    url = f"http://127.0.0.1:{server.port}/v1"
    environment = {**os.environ, "OPENAI_BASE_URL": url, "OPENAI_API_KEY": "none", **variables}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize(
    ("script", "package"),
    [("with_litellm.py", "litellm==1.110.2"), ("with_langchain.py", "langchain-openai==1.7.4")],
)
def test_python_clients(
    server: Running, request: pytest.FixtureRequest, script: str, package: str
) -> None:
    run(server, [python_with(request.config, package), SCRIPTS / script])


def test_the_llm_command(server: Running, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    python = python_with(request.config, "llm==0.36")
    url = f"http://127.0.0.1:{server.port}/v1"
    entries = [
        {"model_id": "toy", "model_name": "toy", "api_base": url, "supports_tools": True,
         "supports_schema": True},
        {"model_id": "toy-text", "model_name": "toy", "api_base": url, "completion": True},
    ]  # fmt: skip
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps(entries))

    def llm(*arguments: str) -> str:
        home = {"LLM_USER_PATH": str(tmp_path)}
        return run(server, [python.with_name("llm"), *arguments], **home)

    short = ("-o", "max_tokens", "8", "-o", "seed", "1")
    whole = llm("-m", "toy", "It is", *short, "--no-stream")
    assert whole.strip() and llm("-m", "toy", "It is", *short) == whole
    assert llm("-m", "toy-text", "It is", "-o", "max_tokens", "8").strip()
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}
    schema["additionalProperties"] = False
    answer = llm("-m", "toy", "It is", "--schema", json.dumps(schema), "-o", "max_tokens", "90")
    assert json.loads(answer)["a"] in (1, 2)
    assert llm("-m", "toy", "It is", "-T", "llm_version", *short).strip()


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_the_node_client(server: Running, request: pytest.FixtureRequest) -> None:
    folder = node_with(request.config, "openai@6.49.0")
    script = folder / "with_node.mjs"
    script.write_text((SCRIPTS / "with_node.mjs").read_text())
    run(server, ["node", script])
