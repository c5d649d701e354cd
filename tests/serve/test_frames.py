"""Frames, shared pages, the batcher and the HTTP parser, without processes."""

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cupola.serve.http.messages import HTTPError, Request, Response, head_of
from cupola.serve.http.parser import RequestParser, split_url
from cupola.serve.ipc import frames
from cupola.serve.ipc.in_flight import InFlightCounter
from cupola.serve.ipc.scoreboard import Scoreboard
from cupola.serve.runners.batcher import Batcher, Job
from cupola.serve.settings.settings import Settings

FRAMES = st.builds(
    frames.Frame,
    kind=st.integers(0, 5),
    id=st.integers(0, 2**64 - 1),
    body=st.binary(max_size=200),
    extra=st.dictionaries(st.text(max_size=5), st.integers(0, 9) | st.text(max_size=9), max_size=3),
    json_size=st.integers(-1, 2**40),
    times=st.tuples(*[st.floats(allow_nan=False)] * 4),
    samples=st.integers(0, 2**32 - 1),
    batch=st.integers(0, 2**32 - 1),
    status=st.integers(0, 599),
)


def fields(frame: frames.Frame) -> tuple[Any, ...]:
    return tuple(getattr(frame, name) for name in frames.Frame.__slots__)


@given(st.lists(FRAMES, max_size=4), st.integers(1, 50))
def test_frames_are_unpacked_from_any_split(packed: list[frames.Frame], step: int) -> None:
    raw = b"".join(bytes(piece) for frame in packed for piece in frames.pack(frame))
    unpacker, found = frames.Unpacker(), []
    for at in range(0, len(raw), step):
        found += unpacker.feed(raw[at : at + step])
    assert [fields(frame) for frame in found] == [fields(frame) for frame in packed]


def test_a_frame_with_a_false_size_is_refused() -> None:
    (raw,) = frames.pack(frames.Frame(frames.INFER, extra={"a": 1}))
    changed = bytearray(raw)
    changed[56:60] = b"\xff\xff\xff\xff"
    with pytest.raises(frames.FrameError, match="frame with 4294967295 bytes of JSON"):
        list(frames.Unpacker().feed(changed))


def test_a_large_body_is_passed_in_the_spool(tmp_path: Path) -> None:
    path = frames.spill(b"x" * 100, tmp_path)
    frame = frames.Frame(frames.INFER, extra={"spool": path})
    assert bytes(frames.load_body(frame)) == b"x" * 100
    assert bytes(frames.load_body(frames.Frame(frames.INFER, body=b"here"))) == b"here"


def test_a_scoreboard_lists_the_suspects(tmp_path: Path) -> None:
    scoreboard = Scoreboard(tmp_path / "scoreboard", create=True)
    scoreboard.begin([5, 2**63])
    seen = Scoreboard(tmp_path / "scoreboard")
    assert seen.suspects == {5, 2**63} and seen.idle_for < 1
    scoreboard.end()
    assert seen.suspects == set()


def test_in_flight_counts_add_up_over_workers_and_a_new_worker_starts_at_zero(
    tmp_path: Path,
) -> None:
    page = tmp_path / "in-flight"
    first, second = InFlightCounter(page, 1), InFlightCounter(page, 4)
    first.set(3)
    second.set(2)
    assert first.total == second.total == 5
    assert InFlightCounter(page, 1).total == 2


def job(number: int, samples: int = 1, **more: Any) -> Job:
    request: Any = None
    return Job(number, None, request, [0] * samples, 0.0, time.monotonic() + 60, **more)


def test_batches_are_full_or_due_and_a_suspect_runs_alone() -> None:
    batcher = Batcher(max_batch=3, delay=60)
    batcher.add(job(1, 2), ["a", "a"])
    assert batcher.take() == [] and (batcher.wait() or 0) > 50
    batcher.add(job(2, 2), ["a", "b"])
    batcher.add(job(3, alone=True), ["a"])
    assert [(one.id, index) for one, index in batcher.take()] == [(1, 0), (1, 1), (2, 0)]
    batcher.delay = 0
    assert [(one.id, index) for one, index in batcher.take()] == [(2, 1)]
    assert [(one.id, index) for one, index in batcher.take()] == [(3, 0)]
    assert batcher.take() == [] and batcher.wait() is None


def test_cancelled_and_late_requests_are_dropped() -> None:
    batcher, late = Batcher(4, 0), job(1)
    late.deadline = time.monotonic() - 1
    batcher.add(late, ["a"])
    batcher.add(job(2), ["a"])
    batcher.cancel(2)
    batcher.add(job(3), ["a"])
    assert [one.id for one, _ in batcher.take()] == [3]
    assert set(batcher.jobs) == {3}


def parse(data: bytes, tmp_path: Path, step: int = 0, **settings: Any) -> list[Request]:
    found: list[Request] = []
    parser = RequestParser(
        Settings(**settings), tmp_path, "peer", lambda: "own", found.append, lambda: None,
        lambda: None,
    )  # fmt: skip
    for at in range(0, len(data), step or len(data)):
        parser.feed(data[at : at + (step or len(data))], 1.0)
    return found


@pytest.mark.parametrize("step", [0, 1, 7])
def test_requests_are_parsed_from_any_split(tmp_path: Path, step: int) -> None:
    one = (
        b"POST /a%20b?c=d HTTP/1.1\r\nHost: t\r\nX-Request-Id: mine\r\nContent-Length: 3\r\n\r\nabc"
    )
    two = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    first, second = parse(one + two, tmp_path, step)
    assert (first.method, first.path, first.query, first.id) == ("POST", "/a b", "c=d", "mine")
    assert bytes(first.body) == b"abc" and first.keep_alive
    assert (second.path, second.id, second.keep_alive) == ("/", "own", False)


def test_a_large_body_is_spooled_while_it_arrives(tmp_path: Path) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n"
    (request,) = parse(head + b"y" * 50, tmp_path, 9, shm_threshold=16)
    assert request.body == b"" and request.body_bytes() == b"y" * 50
    request.release()
    assert list(tmp_path.iterdir()) == []


def test_a_request_target_may_be_an_absolute_url() -> None:
    assert split_url(b"http://host/path?x=1") == ("host", "/path", "x=1")
    assert split_url(b"/path#part") == (None, "/path", "")


def test_a_refused_header_keeps_its_reason(tmp_path: Path) -> None:
    with pytest.raises(HTTPError, match="header host appears twice"):
        parse(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", tmp_path)


def test_the_head_of_a_response_gives_its_length() -> None:
    plain = head_of("id", Response(200, b"{}", [("A", "b")]), keep=True)
    assert plain == (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Request-Id: id\r\n"
        b"Content-Length: 2\r\nA: b\r\n\r\n"
    )
    assert b"Connection: close" in head_of("id", Response(), keep=False)
    assert b"Content-Length" not in head_of("id", Response(204), keep=True)
