"""Ids on the hub, against a hub of the test's own: what is downloaded, offline mode, errors."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cupola.bundles import Bundle, hub
from cupola.errors import BundleError
from cupola_commands import run_cupola
from hub_server import Hub, serve_hub
from language_toys import language_bundle

DIGITS = Bundle.load("detr-digits").path
LOAD = """
import json, sys
from cupola.bundles import Bundle
from cupola.errors import BundleError
answers = []
for source, options in json.loads(sys.argv[1]):
    try:
        found = Bundle.load(source, **options)
        answers.append([found.name, found.version, found.task, str(found.path)])
    except BundleError as error:
        answers.append(str(error))
print(json.dumps(answers))
assert "torch" not in sys.modules
"""


class Client:
    """Runs programs that know only the address of the hub and a cache of their own."""

    def __init__(self, served: Hub, address: str, cache: Path) -> None:
        self.hub, self.cache = served, cache
        self.environment = {"HF_ENDPOINT": address, "HF_HOME": str(cache), "HF_TOKEN": ""}
        self.environment["HF_HUB_OFFLINE"] = "0"

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *command],
            env={**os.environ, **self.environment, **environment},
            capture_output=True,
            text=True,
        )

    def cupola(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run_cupola(*arguments, env=self.environment)

    def load(self, source: str, environment: dict[str, str] | None = None, **options: Any) -> Any:
        """[name, version, task, path] of a bundle, or the error's text."""
        return self.load_each([(source, options)], environment)[0]

    def load_each(
        self, wanted: list[tuple[str, dict[str, Any]]], environment: dict[str, str] | None = None
    ) -> list[Any]:
        """The same for several in one process."""
        done = self.run("-c", LOAD, json.dumps(wanted), **(environment or {}))
        assert done.returncode == 0, done.stderr
        found: list[Any] = json.loads(done.stdout)
        return found


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    with serve_hub(tmp_path / "hub") as (served, address):
        yield Client(served, address, tmp_path / "cache")


def publish(client: Client, repo: str, files: dict[str, Any], revision: str = "main") -> Path:
    """A repository with these files; what is not text or bytes is written as JSON."""
    folder = client.hub.root / repo / revision
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        text = content if isinstance(content, str | bytes) else json.dumps(content)
        (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return folder


WEIGHTS = {"model.safetensors": b"w"}
BUNDLE = {"config.json": {"name": "toy", "version": "1", "task": "forecast", "model": {}}}
CHECKPOINT = {"config.json": {"model_type": "bloom", "architectures": ["BloomForCausalLM"]}}


def downloads(client: Client) -> set[str]:
    return {path.split("/", 2)[2] for path in client.hub.requested}


def test_a_bundle_is_downloaded_with_its_example_and_without_its_logs(client: Client) -> None:
    wanted = {
        **BUNDLE,
        "weights.safetensors": b"w",
        "card.md": "# toy",
        "example/request.json": [1],
        "example/1/sample.json": [2],
        "training.json": [3],
        "build_record.json": [4],
    }
    publish(client, "org/toy", {**wanted, "log.jsonl": "", "README.md": "", ".gitattributes": ""})
    name, version, task, path = client.load("hf://org/toy")
    assert (name, version, task) == ("toy", "1", "forecast")
    assert downloads(client) == set(wanted)
    client.hub.requested.clear()
    assert client.load("hf://org/toy")[3] == path
    assert downloads(client) == set()  # all of it is in the cache


def test_pickled_weights_are_downloaded_only_where_there_are_no_safetensors(
    client: Client,
) -> None:
    both = {"model.safetensors": b"w", "pytorch_model.bin": b"p", "flax_model.msgpack": b""}
    publish(client, "org/both", {**CHECKPOINT, **both, "tokenizer.json": {}})
    assert client.load("hf://org/both")[:3] == ["both", "1", "language"]
    assert downloads(client) == {"config.json", "tokenizer.json", "model.safetensors"}
    client.hub.requested.clear()
    publish(client, "org/old", {**CHECKPOINT, "pytorch_model.bin": b"p"})
    client.load("hf://org/old")
    assert downloads(client) == {"config.json", "pytorch_model.bin"}


def test_the_shards_of_an_index_are_downloaded(client: Client) -> None:
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    files = {"model.safetensors.index.json": index, "model-1.safetensors": b"x"}
    publish(client, "org/lm", {**CHECKPOINT, **files, "model.fp32-1.safetensors": b"w"})
    assert "model-2.safetensors, which is not there" in client.load("hf://org/lm")
    publish(client, "org/lm", {"model-2.safetensors": b"y"})
    client.load("hf://org/lm")
    assert downloads(client) == {"config.json", *files, "model-2.safetensors"}


def test_a_revision_is_named_in_the_id_or_beside_it(client: Client) -> None:
    for revision in ("main", "v2"):
        about = {**BUNDLE["config.json"], "version": revision}
        files = {"config.json": about, "weights.safetensors": b"w"}
        publish(client, "org/toy", files, revision)
    main, at, beside, unknown, both, shipped = client.load_each(
        [
            ("hf://org/toy", {}),
            ("hf://org/toy@v2", {}),
            ("hf://org/toy", {"revision": "v2"}),
            ("hf://org/toy@v3", {}),
            ("hf://org/toy@v2", {"revision": "main"}),
            ("detr-digits", {"revision": "v2"}),
        ]
    )
    assert (main[1], at[1], beside[1]) == ("main", "v2", "v2")
    assert "no branch, tag or commit 'v3'" in unknown
    assert "revision 'main' was given as well" in both
    assert "a revision needs an id on the hub" in shipped


def test_offline_mode_takes_what_is_in_the_cache_and_says_what_is_missing(client: Client) -> None:
    publish(client, "org/toy", {**BUNDLE, "weights.safetensors": b"w"})
    missing = client.load("hf://org/toy", offline=True)
    assert "not in the cache" in missing and "load it once without --offline" in missing
    found = client.load("hf://org/toy")
    client.hub.requested.clear()
    assert client.load("hf://org/toy", offline=True) == found
    assert client.load("hf://org/toy", environment={"HF_HUB_OFFLINE": "1"}) == found
    assert client.hub.requested == []


def test_a_hub_that_is_gone_is_named_with_the_copy_in_the_cache(client: Client) -> None:
    publish(client, "org/toy", {**BUNDLE, "weights.safetensors": b"w"})
    gone = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    error = client.load("hf://org/toy", environment=gone)
    assert "http://127.0.0.1:9 did not answer" in error and "cache" not in error
    client.load("hf://org/toy")
    assert "use it with --offline" in client.load("hf://org/toy", environment=gone)


def test_errors_say_what_to_do(client: Client) -> None:
    publish(client, "org/empty", {"config.json": {}})
    publish(client, "org/none", {"README.md": ""})
    publish(client, "org/gated", BUNDLE)
    publish(client, "org/vision", {"config.json": {"architectures": ["ViTModel"]}, **WEIGHTS})
    client.hub.gated.add("org/gated")
    expected = {
        "hf://org": "expected hf://ORG/NAME",
        "hf://org/absent": "no such repository, or it is private",
        "hf://org/gated": "access must be asked for at",
        "hf://org/empty": "holds none of weights.safetensors, model.safetensors",
        "hf://org/none": "holds no config.json",
        "hf://org/vision": "a transformers checkpoint of ViTModel; only language models",
    }
    errors = client.load_each([(source, {}) for source in expected])
    for (source, words), error in zip(expected.items(), errors, strict=True):
        assert isinstance(error, str) and words in error, (source, error)
        assert error.startswith(source) or "config.json" in error


def test_needed_reads_only_the_index() -> None:
    with pytest.raises(BundleError, match="is not a shard index"):
        hub.needed("hf://a/b", ["config.json", "model.safetensors.index.json"], lambda _: [])
    files = ["config.json", "weights.safetensors", "pytorch_model.bin.index.json"]
    assert hub.needed("hf://a/b", files, lambda _: pytest.fail("read")) == files[:2]


def test_a_shipped_bundle_from_the_hub_predicts_as_at_home(client: Client) -> None:
    folder = client.hub.root / "org/digits/main"
    shutil.copytree(DIGITS, folder)
    here = client.cupola("predict", "detr-digits", "--json")
    there = client.cupola("predict", "hf://org/digits", "--json")
    assert there.returncode == 0, there.stderr
    assert json.loads(there.stdout) == json.loads(here.stdout) != []
    assert "example/image.png" in there.stderr
    code = "import cupola; print(cupola.Predictor.load('hf://org/digits', offline=True).name)"
    assert client.run("-c", code).stdout == "detr-digits\n"
    refused = client.cupola("predict", "hf://org/nothing")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1


TOKENIZER = """
import sys
from cupola.bundles.hub import tokenizer_file
from cupola.errors import BundleError
try:
    print(tokenizer_file(sys.argv[1]).name)
except BundleError as error:
    print(error)
"""


def test_the_tokenizer_of_a_language_model(client: Client) -> None:
    """Not its weights; the second time from the cache."""
    publish(client, "org/bert", {"vocab.txt": "[PAD]", "config.json": {}, "pytorch_model.bin": "x"})
    publish(client, "org/none", {"config.json": {}})
    assert client.run("-c", TOKENIZER, "org/bert").stdout == "vocab.txt\n"
    assert client.hub.requested == ["org/bert/vocab.txt"]
    offline = client.run("-c", TOKENIZER, "org/bert", HF_HUB_OFFLINE="1")
    assert offline.stdout == "vocab.txt\n" and client.hub.requested == ["org/bert/vocab.txt"]
    for name, words in (
        ("org/none", "holds none of tokenizer.json, vocab.txt"),
        ("org/nobody", "there is no such repository"),
        ("a/b/c", "neither a folder nor a model on the hub"),
    ):
        assert words in client.run("-c", TOKENIZER, name).stdout


rare = partial(pytest.param, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["explain", "--depth", "0"], "parameters"),
        rare(["export", "OUT", "--format", "torch"], "a language model has no export"),
        rare(["evaluate"], "training.json: missing"),
        rare(["verify"], "covers data"),
        (["generate", "It is", "--max-tokens", "3"], "It is"),
        (["predict", "OUT"], "use `cupola generate`"),
        rare(["forecast"], "forecast needs a forecast model"),
    ],
)
def test_every_command_takes_an_id(
    client: Client, tmp_path: Path, arguments: list[str], words: str
) -> None:
    folder = client.hub.root / "org/toy-text/v1"
    folder.parent.mkdir(parents=True)
    language_bundle(folder)
    (folder / "card.md").write_text("data, license, recipe, metrics")
    command, *rest = [str(tmp_path / "out") if a == "OUT" else a for a in arguments]
    more = [*rest, "--revision", "v1"]
    done = client.cupola(command, "hf://org/toy-text", *more)
    assert words in done.stdout + done.stderr, done.stderr
    client.hub.requested.clear()
    again = client.cupola(command, "hf://org/toy-text", *more, "--offline")
    assert words in again.stdout + again.stderr
    assert client.hub.requested == []
