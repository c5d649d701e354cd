"""cupola.ray on a local Ray cluster: equal answers, and no request lost when a replica is killed
or the deployment is updated."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray_cluster import Cluster, Load
from serve_harness import infer_body, output, until, write_bundle
from typer.testing import CliRunner

from cupola.bundles import Bundle
from cupola.cli.main import app
from cupola.runtime import Predictor

DIGITS = Bundle.load("detr-digits")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    found = Cluster()
    yield found
    found.close()


@pytest.fixture
def echo(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """The arguments of an application of the echo model."""

    def make(name: str = "echo", **about: Any) -> dict[str, Any]:
        bundle = write_bundle(tmp_path, name, folder=f"{name}{len(list(tmp_path.iterdir()))}",
                              **about)  # fmt: skip
        return {"bundle": str(bundle), "settings": {"plugins": ["serve_plugin"]}}

    return make


slow = [pytest.mark.slow, pytest.mark.processes, pytest.mark.timeout(1800)]


def on_cluster(function: Any) -> Any:
    """Marks a test that needs the cluster."""
    for mark in slow:
        function = mark(function)
    return function


@on_cluster
def test_answers_are_those_of_the_model(cluster: Cluster) -> None:
    cluster.do("run", bundle=["detr-digits", "bloom-tiny"], num_replicas=2)
    image = DIGITS.path / "example/image.png"
    direct = Predictor.load(DIGITS)(image)
    assert len(direct) > 0 and len(cluster.do("pids")) == 2
    for _ in range(6):
        answer = cluster.post(
            "/v2/models/detr-digits/infer", image.read_bytes(), **{"Content-Type": "image/png"}
        )
        assert answer.status_code == 200, answer.text
        assert output(answer.json(), "labels") == direct.labels.tolist()
        assert output(answer.json(), "scores") == pytest.approx(direct.scores.tolist(), abs=1e-4)
    about = {"model": "bloom-tiny", "prompt": "The", "max_tokens": 8, "temperature": 0}
    whole = cluster.post("/v1/completions", json.dumps(about)).json()["choices"][0]["text"]
    with cluster.client() as client, client.stream(
        "POST", "/v1/completions", json={**about, "stream": True}
    ) as stream:  # fmt: skip
        assert stream.headers["content-type"].startswith("text/event-stream")
        events = [line[6:] for line in stream.iter_lines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]" and len(events) > 5
    texts = [json.loads(event)["choices"][0]["text"] for event in events[:-1]]
    assert "".join(texts) == whole


@on_cluster
def test_errors_have_the_form_of_their_protocol(cluster: Cluster, echo: Any) -> None:
    arguments = echo()
    arguments["settings"]["max_body"] = 2000
    cluster.do("run", route_prefix="/models", **arguments, num_replicas=1)
    answer = cluster.post("/models/v2/models/echo/infer", infer_body([3.0]))
    assert output(answer.json(), "y") == [3.0] and answer.headers["x-request-id"]
    missing = cluster.post("/models/v2/models/ech/infer", infer_body([3.0]))
    assert missing.status_code == 404 and "did you mean 'echo'" in missing.json()["error"]
    assert cluster.post("/models/v2/models/echo/infer", "{").status_code == 400
    large = cluster.post("/models/v1/completions", b"x" * 3000)
    assert large.status_code == 413 and "2000 bytes" in large.json()["error"]["message"]
    failed = cluster.post("/models/v2/models/echo/infer", infer_body([1.0], do="fail"))
    assert failed.status_code == 500 and "told to fail" in failed.json()["error"]


@on_cluster
def test_a_killed_replica_loses_no_request(cluster: Cluster, echo: Any) -> None:
    cluster.do("run", **echo(), num_replicas=2)
    with Load(cluster) as load:
        load.wait_for(50)
        for _ in range(2):
            killed = cluster.do("pids")[0]
            os.kill(killed, signal.SIGKILL)
            load.wait_for(100)
            until(lambda: len(set(cluster.do("pids")) - {killed}) == 2, 120)  # noqa: B023
            load.wait_for(50)
    assert set(load.statuses) == {200}, load.statuses


@on_cluster
def test_two_replicas_answer_almost_twice_as_much(cluster: Cluster, echo: Any) -> None:
    """The model only sleeps, one request at a time, so that the processor hardly matters."""
    arguments = echo()
    arguments["settings"]["max_batch"] = 1
    rates = []
    for replicas in (1, 2):
        cluster.do("run", **arguments, num_replicas=replicas)
        with Load(cluster, clients=8, sleep=0.5) as load:
            load.wait_for(16)
            rates.append(load.rate(20))
        assert set(load.statuses) == {200}, load.statuses
    assert rates[1] >= 1.8 * rates[0], rates


@on_cluster
def test_a_request_that_kills_replicas_is_given_up(cluster: Cluster, echo: Any) -> None:
    cluster.do("run", **echo(), num_replicas=2)
    answer = cluster.post("/v2/models/echo/infer", infer_body([1.0], do="die"))
    assert answer.status_code == 500 and "lost 3 replicas" in answer.json()["error"]
    until(lambda: cluster.post("/v2/models/echo/infer", infer_body([1.0])).status_code == 200, 60)


@on_cluster
def test_an_update_loses_no_request(cluster: Cluster, echo: Any) -> None:
    cluster.do("run", **echo(), num_replicas=2)
    with Load(cluster) as load:
        load.wait_for(50)
        for offset in (1, 2):
            cluster.do("run", **echo(version=str(offset), offset=offset), num_replicas=2)
            load.wait_for(50)
    assert set(load.statuses) == {200}, load.statuses
    assert {value for _, value in load.answers} == {1.0, 2.0, 3.0}


@on_cluster
def test_multiplexed_models(cluster: Cluster, tmp_path: Path) -> None:
    names = ["a", "b", "c"]
    bundles = [str(write_bundle(tmp_path, name, offset=n)) for n, name in enumerate(names)]
    bundles.append(str(write_bundle(tmp_path, "speaker", task="language")))
    cluster.do(
        "run", bundle=bundles, num_replicas=1, multiplexed_models=2,
        settings={"plugins": ["serve_plugin"]},
    )  # fmt: skip
    for turn in range(2):
        for n, name in enumerate(names):
            answer = cluster.post(f"/v2/models/{name}/infer", infer_body([10.0 * turn]))
            assert answer.status_code == 200, answer.text
            assert output(answer.json(), "y") == [10.0 * turn + n]
    body = {"model": "speaker", "prompt": "x", "max_tokens": 3}
    answer = cluster.post("/v1/completions", json.dumps(body))
    assert answer.json()["choices"][0]["text"].split() == ["w0", "w1", "w2"]
    with cluster.client() as client:
        assert client.get("/v2/health/ready").json() == {"ready": True}
        listed = [each["id"] for each in client.get("/v1/models").json()["data"]]
        assert listed == [*names, "speaker"]
        unknown = client.get("/v2/models/aa")
        assert unknown.status_code == 404 and "did you mean 'a'" in unknown.json()["error"]
        assert "name a model" in client.get("/metrics").json()["error"]


@on_cluster
def test_a_config_file(cluster: Cluster, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path, "echo", offset=5)
    file = tmp_path / "serve.yaml"
    arguments = [
        "ray", "serve-config", str(bundle), "--plugin", "serve_plugin", "--min-replicas", "1",
        "--max-replicas", "3", "--num-cpus", "0.5", "--set", "batch_delay=0.01",
        "--name", "default", "--port", str(cluster.port), "--host", "127.0.0.1", "-o", str(file),
    ]  # fmt: skip
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    cluster.do("run_file", path=str(file))
    answer = cluster.post("/v2/models/echo/infer", infer_body([1.0]))
    assert output(answer.json(), "y") == [6.0]


# ---- without a cluster


def config(*arguments: str) -> Any:
    done = CliRunner().invoke(app, ["ray", "serve-config", *arguments])
    if done.exit_code:
        return str(done.exception)
    return yaml.safe_load(done.stdout)


def test_the_config_file() -> None:
    found = config("detr-digits", "--num-replicas", "3", "--num-gpus", "1", "--multiplexed", "2")
    (application,) = found["applications"]
    assert application["import_path"] == "cupola.ray:build"
    assert application["args"] == {
        "bundle": ["detr-digits"], "multiplexed_models": 2,
        "ray_actor_options": {"num_cpus": 1.0, "num_gpus": 1.0},
    }  # fmt: skip
    assert application["deployments"] == [{"name": "Models", "num_replicas": 3}]
    scaled = config("detr-digits", "--max-replicas", "4", "--target-ongoing-requests", "8")
    assert scaled["applications"][0]["deployments"][0]["autoscaling_config"] == {
        "max_replicas": 4, "target_ongoing_requests": 8.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--num-replicas", "2", "--max-replicas", "3"], "--num-replicas is a fixed number"),
        (["--min-replicas", "2"], "autoscaling needs --max-replicas"),
        (["--min-replicas", "4", "--max-replicas", "3"], "--min-replicas 4 is more than"),
        (["--set", "batch_dela=1"], "did you mean 'batch_delay'"),
        (["--set", "batch_delay"], "NAME=VALUE"),
        (["detr-digits", "--model-dir", "/x"], "models and model_dir are both given"),
    ],
)
def test_arguments_that_contradict(arguments: list[str], said: str) -> None:
    assert said in config(*arguments)


def test_threads_and_devices_follow_from_the_actor() -> None:
    from cupola.ray.settings import server_settings

    found = server_settings("a", None, {"max_batch": 4}, {"num_cpus": 2.5, "num_gpus": 0.5})
    assert (found.compute_threads, found.max_batch, found.models[0].device) == (2, 4, "cuda")
    found = server_settings([{"bundle": "a", "device": "cpu"}], None, {}, {"num_gpus": 1})
    assert found.models[0].device == "cpu"
    found = server_settings(None, "/x", {}, {"num_gpus": 1})
    assert found.model_defaults == {"device": "cuda"}
