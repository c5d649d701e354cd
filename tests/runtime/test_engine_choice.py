"""auto: measures, compares, keeps its choice, and never fails because of an engine."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, NamedTuple

import pytest
import torch
from torch import Tensor

from cupola import nn
from cupola.bundles import optimizations as names
from cupola.errors import InputError
from cupola.runtime.devices import CPU
from cupola.runtime.optimize import (
    building,
    calibration,
    choices,
    engines,
    graphs,
    machine,
    selection,
    structure,
)
from cupola.runtime.optimize.compiled import Compiled
from cupola.runtime.optimize.network import EngineUnavailableError, with_shared_weights
from cupola.runtime.predictor import Predictor


class Clock:
    """Time as the models say that it passes, so that no load changes a choice."""

    now = 0.0
    slept = 0.0
    busy_until = 0.0  # threads of the last call still look for work
    monotonic = staticmethod(lambda: Clock.now)

    @staticmethod
    def sleep(seconds: float) -> None:
        Clock.now += seconds
        Clock.slept += seconds

    @staticmethod
    def timed(run: Callable[[], object]) -> float:
        began = Clock.now
        run()
        return Clock.now - began


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.bn = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        slowed = 3.0 if Clock.now < Clock.busy_until else 1.0
        Clock.now += slowed * getattr(self, "pause", 0.0)
        Clock.busy_until = Clock.now + getattr(self, "looking", 0.0)
        return self.bn(self.conv(x)) + getattr(self, "wrong", 0.0)


@dataclass
class Toy(Predictor):
    task: ClassVar[str] = "toy"
    inputs = outputs = ()
    device: torch.device = CPU

    def decode(self, tensors: Any, parameters: Any) -> list[Any]:
        return []

    @torch.inference_mode()
    def run(self, samples: Any) -> list[Any]:
        return [self.model(sample) for sample in samples]

    def encode(self, predictions: Any, parameters: Any) -> Any:
        return {}


class Fake(engines.Engine):
    """An engine of a given speed, and perhaps with a graph that takes a while to build."""

    def __init__(
        self,
        name: str,
        pause: float,
        wrong: float = 0.0,
        absent: str = "",
        cost: int = 0,
        building: float = 0.0,
    ) -> None:
        self.name, self.cost = name, cost  # type: ignore[misc]
        self.pause, self.wrong, self.absent, self.building = pause, wrong, absent, building
        self.made = 0

    def missing(self, device: torch.device) -> str | None:
        return self.absent or None

    def model_of(self, situation: engines.Situation) -> Any:
        self.made += 1
        if self.pause < 0:
            raise RuntimeError("illegal instruction")
        self._build(situation)
        model = with_shared_weights(situation.model)
        model.__dict__.update(pause=self.pause, wrong=self.wrong)
        return model

    def _build(self, situation: engines.Situation) -> None:
        if not self.building:
            return
        path = situation.folder / self.name  # type: ignore[operator]
        if not path.exists():
            seconds = situation.seconds_left() * graphs.BUILDING
            Clock.now += min(seconds, self.building)
            if seconds < self.building:
                situation.awaited[self.name] = "not built"
                raise building.UnfinishedError("not built")
            path.touch()


SLOW, FAST = 0.02, 0.004


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    torch.manual_seed(0)
    monkeypatch.setenv("CUPOLA_CACHE", str(tmp_path))
    monkeypatch.setattr(selection, "LEAST_PARAMETERS", 0)
    monkeypatch.setattr(calibration, "time", Clock)
    monkeypatch.setattr(calibration, "timed", Clock.timed)
    model = Network().eval()
    model.__dict__["pause"] = SLOW
    return Toy("toy", "1", model)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, engines.Engine]]:
    """The engines of a test, by name; eager is among them."""
    found: dict[str, engines.Engine] = {"eager": engines.Eager()}
    monkeypatch.setattr(calibration, "ENGINES", found)
    monkeypatch.setattr(selection, "ENGINES", found)
    return found


def add(known: dict[str, engines.Engine], *fakes: Fake) -> None:
    known.update({fake.name: fake for fake in fakes})


SAMPLES = [torch.ones(1, 3, 5, 5), torch.zeros(1, 3, 5, 5)]


def optimize(toy: Toy, **options: Any) -> tuple[selection.Execution, list[str]]:
    lines: list[str] = []
    return selection.optimize(toy, "auto", SAMPLES, report=lines.append, **options), lines


def test_auto_takes_the_fastest_whose_answers_agree(toy: Toy, known: Any) -> None:
    add(
        known,
        Fake("folded", FAST),
        Fake("wrong", 0.0, wrong=0.1),
        Fake("absent", 0.0, absent="not installed"),
        Fake("broken", -1.0),
        Fake("slow", 5 * SLOW),
    )
    found, lines = optimize(toy)
    assert (found.engine, found.measured) == ("folded", True)
    rows = {row.engine: row for row in found.rows}
    assert rows["wrong"].reason == "its answers differ by more than the task's tolerance"
    assert rows["absent"].reason == "not installed"
    assert rows["broken"].reason == "fails: RuntimeError: illegal instruction"
    assert rows["slow"].reason == "more than 2 times slower than the fastest"
    assert rows["folded"].difference == "relative L2 0.0e+00"
    assert [line for line in lines if line.endswith("chosen")] == [lines[2]]
    assert torch.equal(toy.run(SAMPLES)[0], toy.run(SAMPLES[:1])[0])
    assert toy.model.__dict__["pause"] == FAST


def test_one_slow_call_drops_no_engine(toy: Toy, known: Any, monkeypatch: Any) -> None:
    """As of a machine that is busy for a moment."""
    add(known, Fake("folded", FAST))
    time_it, calls = calibration._Candidates._time, []

    def timed(self: Any, candidate: Any) -> float:
        calls.append(candidate.engine.name)
        seconds = time_it(self, candidate)
        return 9 * SLOW if calls.count(candidate.engine.name) == 1 else seconds

    monkeypatch.setattr(calibration._Candidates, "_time", timed)
    assert optimize(toy)[0].engine == "folded"


def test_threads_that_look_for_work_slow_no_other_engine(toy: Toy, known: Any) -> None:
    """Those of a call that has just ended take the cores of the engine whose turn is next."""
    toy.model.__dict__["looking"] = 0.01
    add(known, Fake("folded", FAST))
    found, _ = optimize(toy)
    taken = {row.engine: row.seconds for row in found.rows}
    assert taken == {"eager": pytest.approx(SLOW), "folded": pytest.approx(FAST)}


def test_a_tie_goes_to_the_simpler_engine(toy: Toy, known: Any) -> None:
    add(known, Fake("folded", SLOW), Fake("compiled", SLOW * 0.98))
    assert optimize(toy)[0].engine == "eager"


def test_with_little_time_the_cheapest_graphs_are_built_first(toy: Toy, known: Any) -> None:
    slow = Fake("compiled", FAST, cost=2, building=70.0)
    add(known, slow, Fake("onnxruntime", FAST, cost=1, building=20.0), Fake("int8", FAST))
    found, _ = optimize(toy, seconds=60.0)
    assert [row.engine for row in found.rows] == list(known)
    assert found.engine == "onnxruntime"  # before int8 among equals, though built after it
    assert next(row for row in found.rows if row.engine == "compiled").reason == "not built"


def test_a_graph_that_was_finished_later_is_measured(toy: Toy, known: Any) -> None:
    add(known, Fake("openvino", FAST, cost=1, building=70.0))
    found, _ = optimize(toy, seconds=60.0)
    assert (found.engine, found.measured) == ("eager", True)
    assert not optimize(Toy("toy", "1", toy_model()))[0].measured
    (path,) = machine.cache_folder().glob("*/auto.json")  # type: ignore[union-attr]
    path.with_name("openvino").touch()
    found, lines = optimize(Toy("toy", "1", toy_model()))
    assert (found.engine, found.measured) == ("openvino", True)
    assert lines[0].endswith(
        "measuring again: a graph that was not ready then has been built since"
    )


def test_a_folder_that_cannot_be_written(toy: Toy, known: Any) -> None:
    """As of a full disk: measured at every start, without an error."""
    add(known, Fake("folded", FAST))
    folder = machine.folder_of(selection._key(toy))
    assert folder is not None
    for name in ("lock", f".auto.json.{os.getpid()}"):  # no file can be written there
        (folder / name).mkdir()
    assert [optimize(Toy("toy", "1", toy_model()))[0].measured for _ in range(2)] == [True, True]


def test_a_choice_of_a_busy_machine_is_not_final(toy: Toy, known: Any, monkeypatch: Any) -> None:
    """Times that say nothing lead to more turns, then to the simplest engine, for this start."""
    add(known, Fake("folded", SLOW * 0.9))
    time_it, calls = calibration._Candidates._time, []

    def timed(self: Any, candidate: Any) -> float:
        calls.append(candidate.engine.name)
        number = calls.count(candidate.engine.name)
        factor = 0.5 + number % 2 if candidate.engine.name == "eager" else 1.0
        return factor * time_it(self, candidate)

    monkeypatch.setattr(calibration._Candidates, "_time", timed)
    found, lines = optimize(toy)
    assert (found.engine, found.measured) == ("eager", True)
    assert len(calls) > 2 * calibration.BUSY_ROUNDS
    assert "toy: too busy to compare engines; a later start measures again" in lines
    again = optimize(Toy("toy", "1", toy_model()), at_once=True, seconds=0.0)[0]
    assert (again.engine, again.rows, again.provisional) == ("eager", found.rows, False)
    again = optimize(Toy("toy", "1", toy_model()), at_once=True)[0]
    assert (again.engine, again.rows, again.provisional) == ("eager", found.rows, True)
    monkeypatch.setattr(calibration._Candidates, "_time", time_it)
    found, _ = optimize(Toy("toy", "1", toy_model()))
    assert (found.engine, found.measured) == ("folded", True)


def test_at_once_nothing_is_measured(toy: Toy, known: Any, monkeypatch: Any) -> None:
    add(known, Fake("folded", FAST), Fake("openvino", FAST / 2, cost=1, building=70.0))

    def at_once(seconds: float = 900.0) -> tuple[selection.Execution, list[str]]:
        return optimize(Toy("toy", "1", toy_model()), seconds=seconds, at_once=True)

    found, lines = at_once()
    assert (found.engine, found.provisional, found.measured) == ("folded", True, False)
    assert lines == ["toy: folded, as 'auto' has not been measured on this machine"]
    optimize(toy, seconds=20.0)
    assert not at_once(20.0)[0].provisional
    found, lines = at_once()  # in this time the graph could be built
    assert (found.engine, found.provisional, lines) == ("folded", True, [])
    assert optimize(Toy("toy", "1", toy_model()), seconds=900.0)[0].engine == "openvino"
    found, _ = at_once()
    assert (found.engine, found.provisional) == ("openvino", False)


def test_at_once_without_an_engine_that_needs_no_measuring(toy: Toy, known: Any) -> None:
    class Unfit(Fake):
        def model_of(self, situation: engines.Situation) -> Any:
            raise EngineUnavailableError("no batch norms")

    add(known, Unfit("folded", FAST))
    found, _ = optimize(toy, at_once=True)
    assert (found.engine, found.provisional) == ("eager", True)


def test_the_next_start_measures_nothing(toy: Toy, known: Any, monkeypatch: Any) -> None:
    add(known, Fake("folded", FAST), Fake("compiled", SLOW))
    first, _ = optimize(toy)
    monkeypatch.setattr(calibration, "calibrate", None)
    again = Toy("toy", "1", toy_model())
    second, lines = optimize(again)
    assert (second.engine, second.measured, lines) == (first.engine, False, [])
    assert second.rows == first.rows
    assert known["compiled"].made == 1


def toy_model() -> Network:
    torch.manual_seed(0)
    model = Network().eval()
    model.__dict__["pause"] = SLOW
    return model


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": 1}', '{"format": 4, "key": {}}', "\xff", "null"]
)
def test_a_damaged_choice_is_measured_again(toy: Toy, known: Any, text: str) -> None:
    add(known, Fake("folded", FAST))
    optimize(toy)
    (path,) = machine.cache_folder().glob("*/auto.json")  # type: ignore[union-attr]
    path.write_text(text, encoding="latin-1")
    again = Toy("toy", "1", toy_model())
    found, lines = optimize(again)
    assert (found.engine, found.measured) == ("folded", True)
    assert [line for line in lines if "measuring again" in line] == [lines[0]]
    assert json.loads(path.read_text())["engine"] == "folded"


def test_a_choice_of_an_engine_that_is_gone(toy: Toy, known: Any) -> None:
    add(known, Fake("folded", FAST))
    optimize(toy)
    known["folded"].absent = "no compiler"
    found, lines = optimize(Toy("toy", "1", toy_model()))
    assert (found.engine, found.measured) == ("eager", True)
    assert "folded: no compiler" in lines[0]


def test_other_weights_threads_or_code_are_other_keys(toy: Toy) -> None:
    key = selection._key(toy)
    assert selection._key(Toy("other name", "2", toy_model())) == key
    with torch.no_grad():
        toy.model.bn.running_mean[0] += 1
    assert selection._key(toy) != key
    assert selection._key(Toy("toy", "1", toy_model(), {"preprocess": 1})) != key
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        assert selection._key(Toy("toy", "1", toy_model())) != key
    finally:
        torch.set_num_threads(threads)


def test_folding_keeps_the_digest(toy: Toy) -> None:
    from cupola.runtime.optimize.folding import fold_batch_norms

    digest = machine.model_digest(toy.model, {})
    machine.remember_digest(toy.model, {})
    folded = fold_batch_norms(toy.model)
    assert machine.model_digest(folded, {}) == digest
    assert list(folded.state_dict()) == ["conv.weight", "conv.bias"]


def test_only_one_process_measures(toy: Toy, known: Any, monkeypatch: Any) -> None:
    add(known, Fake("folded", FAST))
    folder = machine.folder_of(selection._key(toy))
    assert folder is not None
    with choices.locked(folder, 0.0) as mine:
        assert mine
        monkeypatch.setattr(selection, "WAIT", 0.0)
        found, lines = optimize(toy, seconds=0.0)
    assert (found.engine, found.provisional) == ("folded", True)
    assert lines[0] == "toy: another process still measures"


def test_who_waited_takes_the_choice_of_the_other(toy: Toy, known: Any) -> None:
    add(known, Fake("folded", FAST))
    folder = machine.folder_of(selection._key(toy))
    assert folder is not None
    entered, results = threading.Event(), []

    def other() -> None:
        entered.set()
        results.append(optimize(Toy("toy", "1", toy_model()))[0])

    with choices.locked(folder, 0.0):
        thread = threading.Thread(target=other)
        thread.start()
        entered.wait()
        key = selection._key(toy)
        outcome = calibration.calibrate(toy, SAMPLES, folder, 20.0)
        choices.write_choice(choices.file_of(folder, "auto"), key, outcome)
    thread.join()
    assert not results[0].measured
    assert results[0].engine == outcome.engine


def test_small_models_and_models_without_example_stay(toy: Toy, monkeypatch: Any) -> None:
    found = selection.optimize(toy, "auto")
    assert (found.engine, found.rows[0].reason) == ("eager", "there is no example to measure on")
    monkeypatch.setattr(selection, "LEAST_PARAMETERS", 10**6)
    found = selection.optimize(toy, "auto", SAMPLES)
    assert found.rows[0].reason == "the model has fewer than 1 million parameters"
    assert not selection.needs_samples(toy, "auto")


def test_a_folder_of_others_is_not_used(
    toy: Toy, known: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    add(known, Fake("folded", FAST))
    shared = tmp_path / "shared"
    (shared / "optimizations").mkdir(parents=True)
    (shared / "optimizations").chmod(0o777)
    monkeypatch.setenv("CUPOLA_CACHE", str(shared))
    found, lines = optimize(toy)
    assert found.engine == "folded"
    assert lines[0] == "toy: the choice cannot be kept; set CUPOLA_CACHE to a folder of yours"
    assert not list((shared / "optimizations").iterdir())


@pytest.mark.parametrize(
    ("name", "task", "expected"),
    [
        ("none", "detection", "eager"),
        ("eager", "language", "none"),
        ("auto", "forecast", "auto"),
        ("int8", "language", "int8"),
        ("openvino", "toy", "openvino"),
    ],
)
def test_names(name: str, task: str, expected: str) -> None:
    assert names.checked(name, task) == expected


def test_wrong_names() -> None:
    with pytest.raises(InputError, match="did you mean 'openvino'"):
        names.checked("openvno", "detection")
    with pytest.raises(InputError, match="'folded' is not for a language model; expected one of"):
        names.checked("folded", "language")
    with pytest.raises(InputError, match="'packed' is not for a detection model"):
        names.checked("packed", "detection")


def test_a_named_engine_that_cannot_run(toy: Toy, known: Any) -> None:
    add(known, Fake("openvino", FAST, absent="not installed; pip install cupola[openvino]"))
    with pytest.raises(InputError, match="'openvino' cannot run toy here: not installed; pip"):
        selection.optimize(toy, "openvino", SAMPLES)
    known["openvino"].absent = ""
    assert selection.optimize(toy, "openvino", SAMPLES).engine == "openvino"
    with pytest.raises(InputError, match="no example to trace"):
        selection.optimize(toy, "openvino")


def test_a_network_that_predict_does_not_call(toy: Toy) -> None:
    toy.run = lambda samples: [sample + 1 for sample in samples]  # type: ignore[method-assign]
    about = engines.Situation(toy, toy.model, SAMPLES[0])
    with pytest.raises(EngineUnavailableError, match="Network does not call forward"):
        about.call()
    assert "forward" not in toy.model.__dict__


def test_tensor_of_not_a_number_differs() -> None:
    from cupola.runtime.optimize.tolerance import raw_difference, tolerance_of

    allowed = tolerance_of("toy", True)
    one = torch.tensor([1.0, torch.nan])
    assert not raw_difference(one, torch.ones(2)).within(allowed)
    assert raw_difference(one, one).within(allowed)
    assert not raw_difference(torch.ones(3), torch.ones(2)).within(allowed)


def detections(boxes: Any, scores: Any, labels: Any) -> Any:
    tensors = torch.tensor(boxes).float(), torch.tensor(scores), torch.tensor(labels)
    return SimpleDetections(*tensors)


class SimpleDetections(SimpleNamespace):
    def __init__(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> None:
        super().__init__(boxes=boxes, scores=scores, labels=labels, masks=None)

    def __len__(self) -> int:
        return len(self.scores)


@pytest.mark.parametrize(
    ("found", "same"),
    [
        (([[5, 5, 9, 9], [0, 0, 4, 4.2]], [0.8, 0.899], [2, 1]), True),  # another order
        (([[0, 0, 4, 4], [5, 5, 9, 9]], [0.9, 0.8], [1, 1]), False),  # another class
        (([[0, 0, 4, 4]], [0.9], [1]), False),  # one is missing
        (([[0, 0, 4, 6], [5, 5, 9, 9]], [0.9, 0.8], [1, 2]), False),  # another box
        (([[0, 0, 4, 4], [5, 5, 9, 9]], [0.9, 0.7], [1, 2]), False),  # another score
        (([[0, 0, 4, 4], [5, 5, 9, 9], [0, 0, 1, 1]], [0.9, 0.8, 0.01], [1, 2, 3]), True),
        (([[0, 0, 4, 4], [5, 5, 9, 9], [0, 0, 1, 1]], [0.9, 0.8, 0.3], [1, 2, 3]), False),
    ],
)
def test_detections_are_compared_one_by_one(found: Any, same: bool) -> None:
    from cupola.runtime.optimize.tolerance import difference, tolerance_of

    expected = detections([[0, 0, 4, 4], [5, 5, 9, 9]], [0.9, 0.8], [1, 2])
    apart = difference("detection", detections(*found), expected)
    assert apart.within(tolerance_of("detection", True)) == same


class Pair(NamedTuple):
    one: Tensor
    rest: Any


def test_the_nesting_of_results_is_kept(tmp_path: Path) -> None:
    one, two = torch.ones(1), torch.zeros(2)
    answer = Pair(one, {"a": [two, 3], "b": (None, "text")})
    path = tmp_path / "nesting.json"
    structure.write(path, structure.described(answer))
    tensors = structure.tensors_of(answer)
    assert [each is other for each, other in zip(tensors, (one, two), strict=True)] == [True, True]
    found = structure.assembled(structure.read(path), iter(tensors))
    assert found == answer and type(found) is Pair
    with pytest.raises(EngineUnavailableError, match="returns a set"):
        structure.described({1})


@pytest.mark.parametrize("text", ["", "[]", '{"class": ["os", "system"], "parts": []}', '{"x": 1}'])
def test_a_damaged_nesting(tmp_path: Path, text: str) -> None:
    path = tmp_path / "nesting.json"
    path.write_text(text)
    with pytest.raises(EngineUnavailableError):
        structure.read(path)


def test_a_slow_machine_measures_less(toy: Toy, known: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(calibration, "TIMING", 0.0)
    add(known, Fake("folded", FAST), Fake("compiled", FAST))
    began, slept = Clock.now, Clock.slept
    found, _ = optimize(toy, seconds=0.5 * SLOW)  # gone after one timing
    rows = {row.engine: row for row in found.rows}
    assert rows["compiled"].reason == (
        "not measured: no time left; `cupola explain MODEL --optimizations` builds it"
    )
    assert Clock.now - began - (Clock.slept - slept) < 6 * SLOW
    assert found.engine in ("eager", "folded")


def test_classes_of_one_name_have_an_order() -> None:
    """A set of classes has another order in every process; the key of a choice must not."""
    model = Network()
    kinds = [type("Same", (nn.Identity,), {"__module__": f"module_{i}"}) for i in range(9)]
    for number, kind in enumerate(kinds):
        setattr(model, f"part{number}", kind())
    named = [line for line in machine._code(model) if b".Same " in line]
    assert named == sorted(named) and len(named) == 9


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The graphs that are built; those of the kind "slow" are not finished."""
    found: list[str] = []

    def build(kind: str, traced: Any, call: Any, axes: Any, out: Path, *limits: Any) -> None:
        found.append(out.name)
        if kind == "slow":
            raise building.UnfinishedError("not built within 0 s")
        out.touch()

    monkeypatch.setattr(graphs, "build", build)
    return found


def graph(toy: Toy, folder: Path, name: str, kind: str = "onnx", about: Any = None) -> Any:
    situation = about or engines.Situation(toy, toy.model, SAMPLES[0], folder)
    return graphs.with_graph(situation, kind, folder / name, (), lambda: lambda tensors: [])


def test_a_damaged_nesting_is_written_again(toy: Toy, tmp_path: Path, built: list[str]) -> None:
    graph(toy, tmp_path, "a.onnx")
    nesting = (tmp_path / "a.json").read_bytes()
    (tmp_path / "a.json").write_bytes(b"\xff")
    with pytest.raises(EngineUnavailableError, match="is not UTF-8"):
        graph(toy, tmp_path, "a.onnx")
    graph(toy, tmp_path, "a.onnx")
    assert (tmp_path / "a.json").read_bytes() == nesting
    assert built == ["a.onnx"]


def test_batch_norms_are_folded_for_the_first_call_of_another_size(
    toy: Toy, tmp_path: Path, built: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folded: list[Any] = []
    monkeypatch.setattr(
        graphs, "folded", lambda model: folded.append(model) or engines.folded(model)
    )
    toy.model.bn.running_mean.fill_(0.5)
    model = graph(toy, tmp_path, "a.onnx")
    larger = torch.ones(1, 3, 6, 6)
    with torch.inference_mode():
        with pytest.raises(StopIteration):  # the graph of this test has no results
            model(SAMPLES[0])
        assert not folded
        torch.testing.assert_close(model(larger), toy.model(larger))
        torch.testing.assert_close(model(larger), toy.model(larger))
    assert folded == [toy.model]
    replaced = graphs.graph_of(model)
    assert replaced is not None and (replaced.answered, replaced.passed_on) == (1, 2)
    assert graphs.graph_of(toy.model) is None
    assert model(SAMPLES[0]).requires_grad  # with gradients it is the model itself
    assert folded == [toy.model]


def test_graphs_wait_for_one_that_is_not_finished(
    toy: Toy, tmp_path: Path, built: list[str]
) -> None:
    """Engines of the same graph do not begin it twice, and others do not share the cores."""
    about = engines.Situation(toy, toy.model, SAMPLES[0], tmp_path)
    for name in ("a.onnx", "a.onnx", "b.so"):
        with pytest.raises(building.UnfinishedError):
            graph(toy, tmp_path, name, "slow", about)
    assert built == ["a.onnx"]
    assert about.awaited["a.onnx"] == "not built within 0 s"
    assert "another graph has taken all the time; `cupola explain" in about.awaited["b.so"]


def test_nothing_is_compiled_in_the_time_of_a_command(toy: Toy, tmp_path: Path) -> None:
    """Compiling takes minutes: a `predict` would spend all its time on it, and in vain."""
    about = engines.Situation(toy, toy.model, SAMPLES[0], tmp_path, seconds_left=lambda: 20.0)
    with pytest.raises(building.UnfinishedError, match="takes more than 30 s; `cupola explain"):
        Compiled().model_of(about)
    assert not list(tmp_path.iterdir())
