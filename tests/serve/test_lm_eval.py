"""EleutherAI's lm-eval: a task of local files gives the same metrics over HTTP as in process."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from serve_harness import Running

from environments import python_with
from language_toys import hf_language_folder
from lazy import LazyModule

httpx = LazyModule("httpx")
pytestmark = [pytest.mark.processes, pytest.mark.filterwarnings("ignore")]
WORDS = ("truth", "single", "good", "fortune", "man", "wife", "must", "be", "明月", "want", "霜")
CHOICES = ["truth", "man", "a wife", "床前"]
TASKS = {
    "pick": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "rolling": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{question}} must be in want of a {{choices[1]}}.",
        "metric_list": [{"metric": "byte_perplexity"}, {"metric": "bits_per_byte"}],
    },
    "write": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{choices[0]}}",
        "generation_kwargs": {"until": ["e", "\n"], "max_gen_toks": 12, "temperature": 0},
        "metric_list": [{"metric": "exact_match"}],
    },
}


def write_tasks(folder: Path) -> None:
    folder.mkdir()
    rows = [
        {
            "question": f"It is a {word}",
            "choices": ["truth", "man", "a wife", "床前"],
            "answer": n % 4,
        }
        for n, word in enumerate(WORDS)
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = {"data_files": {"test": str(folder / "rows.jsonl")}}
    shared = {"dataset_path": "json", "dataset_kwargs": data, "test_split": "test"}
    for name, task in TASKS.items():
        (folder / f"{name}.yaml").write_text(json.dumps({"task": name, **shared, **task}))


def evaluate(python: Path, home: Path, name: str, *arguments: str) -> tuple[Any, Any]:
    """The metrics of all tasks, and the texts that were written."""
    command = [python, "-m", "lm_eval", *arguments, "--tasks", ",".join(TASKS)]
    command += ["--include_path", home / "tasks", "--output_path", home / name, "--log_samples"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(home / "cache")}
    done = subprocess.run(command, env={**os.environ, **offline}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    (results,) = (home / name).rglob("results_*.json")
    (samples,) = (home / name).rglob("samples_write_*.jsonl")
    metrics = {
        (task, metric): value
        for task, found in json.loads(results.read_text())["results"].items()
        for metric, value in found.items()
        if isinstance(value, float) and "stderr" not in metric
    }
    return metrics, [json.loads(line)["resps"] for line in samples.read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_metrics_over_http_equal_those_in_process(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    python = python_with(
        request.config, "lm-eval==0.4.13", "accelerate", "peft", "tenacity", inherit=True
    )
    folder = hf_language_folder(tmp_path / "toy")
    write_tasks(tmp_path / "tasks")
    expected, texts = evaluate(
        python, tmp_path, "hf", "--model", "hf", "--batch_size", "1", "--device", "cpu",
        "--model_args", f"pretrained={folder},dtype=float32",
    )  # fmt: skip
    assert len(expected) >= 5 and any(text != [[""]] for text in texts)
    server = Running(tmp_path / "server", models=[str(folder)], plugins=[])
    server.start()
    try:
        server.wait_ready(120)
        url = f"http://127.0.0.1:{server.port}/v1/completions"
        for batch, how in (("1", "tokenized_requests=False"), ("8", "num_concurrent=4")):
            settings = f"model=toy,base_url={url},tokenizer={folder},{how}"
            found, written = evaluate(
                python, tmp_path, f"http{batch}", "--model", "local-completions",
                "--batch_size", batch, "--model_args", settings,
            )  # fmt: skip
            assert found == pytest.approx(expected, rel=1e-5)
            assert written == texts
    finally:
        server.stop()
