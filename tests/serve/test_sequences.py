"""Sequences of a stateful model: states in the runners, bounded, freed, and never begun again."""

import json
import os
import signal
import time
from typing import Any

import pytest
from serve_harness import infer_body, output, until, write_bundle

from cupola.errors import InputError
from cupola.serve.ipc.sequence import SequenceStep, read_sequence
from cupola.serve.runners.batcher import Batcher, Job
from cupola.serve.runners.codec import ParsedRequest
from cupola.serve.runners.runner import Runner
from cupola.serve.runners.sequences import Sequences, TooManySequencesError


def test_parameters() -> None:
    assert read_sequence({}) is None
    assert read_sequence({"sequence_id": 0}) is None
    assert read_sequence({"sequence_id": "", "sequence_start": False}) is None
    assert read_sequence({"sequence_id": 7}) == SequenceStep("7", False, False)
    step = read_sequence({"sequence_id": "a", "sequence_start": "true", "sequence_end": True})
    assert step == SequenceStep("a", True, True)
    for bad, text in (
        ({"sequence_id": 1.5}, "expected a text or an integer, got float"),
        ({"sequence_id": -1}, "expected a text or a positive integer, got -1"),
        ({"sequence_id": True}, "expected a text or an integer, got bool"),
        ({"sequence_id": "x" * 300}, "at most 256 characters, got 300"),
        ({"sequence_id": 1, "sequence_start": "maybe"}, "sequence_start: expected true or false"),
        ({"sequence_start": True}, "sequence_start without a sequence_id"),
    ):
        with pytest.raises(InputError, match=text):
            read_sequence(bad)


def test_states_are_bounded_and_expire() -> None:
    now = [0.0]
    states = Sequences(2, 10.0, lambda: now[0])
    one, two, three = (SequenceStep(name, True, False) for name in "abc")
    for step in (one, two):
        assert states.find(step) is None
        states.keep(step, step.id)
    with pytest.raises(TooManySequencesError, match="2 sequences are active"):
        states.find(three)
    now[0] = 6.0
    states.keep(SequenceStep("a", False, False), "later")
    now[0] = 11.0
    states.find(three)
    with pytest.raises(InputError, match=r"sequence b has no state: .* idle for more than 10 s"):
        states.find(SequenceStep("b", False, False))
    assert states.find(SequenceStep("a", False, False)) == "later"
    states.keep(SequenceStep("a", False, True), "last")
    assert len(states) == 0


def test_a_failed_start_leaves_no_state() -> None:
    states = Sequences(2, 10.0)
    states.keep(SequenceStep("a", True, False), 1)
    states.drop(SequenceStep("a", False, False))
    assert states.find(SequenceStep("a", False, False)) == 1
    states.drop(SequenceStep("a", True, False))
    assert len(states) == 0


@pytest.fixture
def server(serve, tmp_path):
    return start(serve, tmp_path)


def start(serve, folder, **settings):
    bundle = write_bundle(folder, "counter", task="counter")
    models = [{"bundle": str(bundle), "runners": 2}]
    return serve(models=models, workers=2, **settings)


def step(server, name, x: float = 1.0, **more):
    status, answer = server.infer("counter", [x], sequence_id=name, **more)
    return status, output(answer, "y")[0] if status == 200 else answer["error"]


@pytest.mark.processes
def test_each_sequence_has_its_own_state_whatever_worker_it_reaches(server) -> None:
    for name in ("a", "b", 17):
        assert step(server, name, sequence_start=True) == (200, 1.0)
    for count in range(2, 8):  # every request is a connection of its own, to either worker
        for name in ("a", "b", 17):
            assert step(server, name, 1.0) == (200, float(count))
    assert step(server, "a", 1.0, sequence_end=True) == (200, 8.0)
    status, error = step(server, "a", 1.0)
    assert status == 400 and "sequence a has no state" in error
    assert step(server, "b", 5.0, sequence_start=True) == (200, 5.0)  # begins again when asked
    status, answer = server.infer("counter", [3.0])
    assert (status, output(answer, "y")) == (200, [3.0])


@pytest.mark.processes
def test_a_refused_start_does_not_go_on_from_an_earlier_sequence(server) -> None:
    for name in ("x", "unknown"):
        assert step(server, "a", sequence_start=True) == (200, 1.0)
        document = json.loads(infer_body([1.0], sequence_id="a", sequence_start=True))
        document["inputs"][0] |= {"name": name, "data": ["text"]}
        body = json.dumps(document)
        assert server.ask("POST", "/v2/models/counter/infer", body)[0] == 400
        status, error = step(server, "a")
        assert status == 400 and "sequence a has no state" in error
    assert step(server, "a", sequence_start="maybe")[0] == 400


def test_an_abandoned_start_does_not_go_on_from_an_earlier_sequence() -> None:
    runner: Any = Runner.__new__(Runner)
    runner.sequences, runner.batcher = Sequences(2, 10.0), Batcher(4, 0.0)
    first = SequenceStep("a", True, False)
    runner.sequences.keep(first, 1)
    late = Job(1, None, ParsedRequest({}), [None], 0.0, 0.0, sequence=first)
    runner.batcher.add(late, [None])
    runner._execute(runner.batcher.take())
    assert len(runner.sequences) == 0 and late.cancelled


@pytest.mark.processes
def test_a_killed_runner_ends_its_sequences_with_an_error(server) -> None:
    names = [f"s{n}" for n in range(4)]
    for name in names:
        assert step(server, name, sequence_start=True) == (200, 1.0)
    ready = until(lambda: [r for r in server.runners() if r["state"] == "ready" and r["pids"]])
    killed = int(ready[0]["pids"][0])
    os.kill(killed, signal.SIGKILL)
    until(lambda: killed not in [int(p) for r in server.runners() for p in r["pids"]])
    found = [step(server, name) for name in names]
    assert {status for status, _ in found} == {200, 400}
    for status, answer in found:
        if status == 200:
            assert answer == 2.0
        else:
            assert "or its runner has exited; send sequence_start" in answer
    assert all(step(server, name, sequence_start=True)[0] == 200 for name in names)


@pytest.mark.processes
def test_a_runner_keeps_at_most_max_sequences(serve, tmp_path) -> None:
    server = start(serve, tmp_path, max_sequences=3)
    statuses = [step(server, f"f{n}", sequence_start=True)[0] for n in range(40)]
    assert statuses.count(200) == 6 and statuses.count(429) == 34


@pytest.mark.processes
def test_an_idle_state_is_freed(serve, tmp_path) -> None:
    server = start(serve, tmp_path, sequence_timeout=0.5)
    assert step(server, "a", sequence_start=True) == (200, 1.0)
    time.sleep(0.8)
    status, error = step(server, "a")
    assert status == 400 and "idle for more than 0.5 s" in error


@pytest.mark.processes
def test_requests_that_cannot_be_in_a_sequence(server, serve) -> None:
    assert step(server, 1.5)[0] == 400
    status, answer = server.infer("counter", [1.0], sequence_start=True)
    assert status == 400 and "without a sequence_id" in answer["error"]
    plain = serve()
    status, answer = plain.infer("echo", [1.0], sequence_id=4, sequence_start=True)
    assert status == 400 and "echo has no state; remove the sequence_id" in answer["error"]
    document = json.loads(infer_body([2.0], sequence_id="j", sequence_start=True))
    text = json.dumps(document)
    status, _, body = server.ask(
        "POST",
        "/v2/models/counter/infer",
        text,
        {"Inference-Header-Content-Length": str(len(text))},
    )
    assert status == 200 and output(json.loads(body), "y") == [2.0]
