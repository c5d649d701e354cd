"""`cupola explain BUNDLE`: the image as the predictor would feed it, and the engines measured."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import cupola
from cupola.bundles import Bundle
from cupola.cli import explained_engines
from cupola.cli.explain import explain
from cupola.cli.main import app
from cupola.cli.predict import show
from cupola.errors import InputError
from cupola.inspect.views import view_of
from cupola.runtime.optimize.execution import Row
from cupola.runtime.tasks.task import Answer


def test_a_bundle_names_what_it_saw_first() -> None:
    bundle = Bundle.load("detr-digits")
    example = bundle.path / "example"
    truth = json.loads((example / "truth.json").read_text())
    model = cupola.build(bundle.config["model"], weights=bundle.weights_path).eval()
    queries = view_of(model, bundle, example / "image.png")["queries"]
    best = [query["label"] for query in queries[: len(truth["labels"])]]
    assert sorted(best) == sorted(str(label) for label in truth["labels"])


def test_the_page_has_the_engines_that_were_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = (
        Row("eager", 0.0204),
        Row("folded", 0.01, "1e-5"),
        Row("openvino", reason="[red]not here"),
    )
    found = explained_engines.MeasuredEngines(rows, "folded", "a processor, 1 threads")
    monkeypatch.setattr(explained_engines, "measure_engines", lambda *how: found)
    explain("afno-navier-stokes", optimizations=True, html=tmp_path / "page.html")
    printed = capsys.readouterr().out
    assert "[red]not here" in printed  # as in `pip install cupola[openvino]`
    assert "20.4 ms" in printed and "a processor, 1 threads" in printed
    text = (tmp_path / "page.html").read_text()
    start = text.index('"engines":') + len('"engines":')
    engines, _ = json.JSONDecoder().raw_decode(text[start:])
    assert engines == found.to_dict()
    assert [row["runs"] for row in engines["rows"]] == ["yes", "yes", "[red]not here"]


def test_the_table_of_an_answer_has_names_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """Brackets in a name are no markup of the terminal."""
    cells = [("sign [stop]", "0.9"), ("[bold]", "0.8"), ("[/x]", "0.7")]
    show(Answer([{}, {}, {}], ("name", "score"), cells), as_json=False)
    printed = capsys.readouterr().out
    assert all(name in printed for name, _ in cells)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--image", "photo.png"],
            "--image has no effect on the printed tree; it goes with --h",
        ),
        (["--order", "--depth", "0"], "--depth has no effect with --order"),
        (["--optimizations", "--order"], "--optimizations has no effect with --order; it goes wi"),
        (["--optimizations", "--input", "3x8x8"], "--input has no effect with --optimizations"),
        (["--ranks", "2", "--weights", "a.pth"], "--weights has no effect with --ranks"),
        (["--device", "cpu"], "--device has no effect on the printed tree; it goes with --opt"),
    ],
)
def test_an_option_without_effect_is_refused(options: list[str], said: str) -> None:
    done = CliRunner().invoke(app, ["explain", "detr-digits", *options])
    assert isinstance(done.exception, InputError) and said in str(done.exception)
