"""bench/quick.py: figures are marked, never fatal; a part that fails is; peers may be missing."""

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """bench/quick.py as a module; the benches that it imported are forgotten afterwards."""
    monkeypatch.syspath_prepend(str(BENCH))
    before = set(sys.modules)
    yield import_module("quick")
    for name in set(sys.modules) - before:
        if str(BENCH) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_a_figure_beyond_its_limit_is_marked(bench: Any) -> None:
    assert not bench.Figure("time", 0.9, 1.0).exceeded
    assert bench.Figure("time", 1.1, 1.0).exceeded
    assert bench.Figure("gain", 3.9, 4.0, True).exceeded
    assert not bench.Figure("gain", 4.1, 4.0, True).exceeded
    assert str(bench.Figure("time", 1.1, 1.0, note="2 s")).split() == [
        *("time", "1.10", "<=", "1", "EXCEEDED", "2", "s"),
    ]
    missing = bench.Figure("time", None, 1.0, note="uvicorn is not installed")
    assert not missing.exceeded
    assert str(missing).endswith("uvicorn is not installed")


def run(bench: Any, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["quick.py", "--threads", "1", *arguments])
    with pytest.raises(SystemExit) as ended:
        bench.main()
    return int(ended.value.code or 0)


def test_figures_do_not_fail_a_run_and_parts_do(
    bench: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def slow() -> Iterator[Any]:
        yield bench.Figure("slow", 9.0, 1.0)

    def broken() -> Iterator[Any]:
        yield bench.Figure("before", 0.5, 1.0)
        raise RuntimeError("the peer ended")

    monkeypatch.setattr(bench, "PARTS", {"slow": slow, "broken": broken})
    file = tmp_path / "figures.json"
    assert run(bench, monkeypatch, "--parts", "slow") == 0
    assert run(bench, monkeypatch, "--parts", "broken", "slow", "--json", str(file)) == 1
    shown = capsys.readouterr()
    assert "3 figures" not in shown.out
    assert "2 figures, 1 beyond their limit, 1 parts failed" in shown.out
    assert "the peer ended" in shown.err
    kept = json.loads(file.read_text())
    assert kept["failed"] == ["broken"]
    assert [(each["name"], each["exceeded"]) for each in kept["figures"]] == [
        ("before", False),
        ("slow", True),
    ]
    assert kept["kind"]


def test_reports_become_columns(
    bench: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files = []
    for kind, value in (("AVX2", 0.5), ("AVX-512", 0.4), ("AVX2", 0.6)):
        monkeypatch.setattr(bench, "kind", lambda kind=kind: kind)
        figures = [bench.Figure("a", value, 1.0), bench.Figure("b", None, 1.0, note="no peer")]
        if kind == "AVX-512":
            figures.append(bench.Figure("c", 5.0, 4.0, True))
        files.append(tmp_path / f"{len(files)}.json")
        files[-1].write_text(json.dumps(bench.report(figures, [])))
    assert bench.table(files).splitlines() == [
        "| measurement | AVX2 | AVX-512 | limit |",
        "| --- | --- | --- | --- |",
        "| a | 0.60 | 0.40 | <= 1 |",
        "| c |  | 5.00 | >= 4 |",
    ]


def test_missing_peers_are_named(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "installed", lambda package: False)
    for name, part in bench.PARTS.items():
        if name not in ("afno", "nn"):  # they need no peer
            figures = list(part())
            assert figures, name
            assert all(figure.value is None and "installed" in figure.note for figure in figures)
    assert not bench.installed("google.protobuf.nothing")


def test_the_kind_of_processor(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import ratio  # type: ignore[import-not-found]

    for flags, expected in (("avx2 avx512f amx_int8", "AMX"), ("avx2 avx512f", "AVX-512"),
                            ("sse avx2", "AVX2")):  # fmt: skip
        monkeypatch.setattr(Path, "read_text", lambda self, f=flags: f"flags\t: {f}\nbugs: avx512f")
        monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
        assert ratio.kind() == expected
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert ratio.kind().startswith("AVX2, emulated")


@pytest.mark.slow
@pytest.mark.parametrize(
    "script", ["quick.py --parts config nn --threads 1", "bandwidth.py --quick"]
)
def test_runs(script: str) -> None:
    name, *rest = script.split()
    command = [sys.executable, str(BENCH / name), *rest]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert ("<=" if name == "quick.py" else "GB/s") in done.stdout
