"""BuildRecord: what was built, in which order, by whom, from which lines."""

from pathlib import Path
from textwrap import dedent

import pytest

from cupola import nn
from cupola.config import Config
from cupola.errors import BuildError
from cupola.registry import MODELS, TASK_UTILS, BuildRecord, build
from cupola.registry.build_record import BuiltPart

HERE = Path(__file__).name


@MODELS.register_module("BuildRecordNeck", force=True)
class Neck(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(dim, dim, 1) for _ in range(2))


@TASK_UTILS.register_module("BuildRecordMatcher", force=True)
class Matcher:
    def __init__(self, costs: list[dict[str, str]]) -> None:
        self.costs = [TASK_UTILS.build(cost) for cost in costs]


@TASK_UTILS.register_module("BuildRecordCost", force=True)
class Cost:
    pass


class BaseHead(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.stem = nn.Linear(dim, dim)


@MODELS.register_module("BuildRecordHead", force=True)
class Head(BaseHead):
    def __init__(self, dim: int, matcher: dict[str, object]) -> None:
        super().__init__(dim)
        self.matcher = TASK_UTILS.build(matcher)
        self.out = nn.Linear(dim, 1)


@MODELS.register_module("BuildRecordModel", force=True)
class Model(nn.Module):
    def __init__(self, neck: dict[str, object], head: dict[str, object]) -> None:
        super().__init__()
        head_module = MODELS.build(head)  # begun before the neck, assigned after it
        self.neck = MODELS.build(neck)
        self.head = head_module


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    base = "model = dict(\n type='BuildRecordModel',\n neck=dict(type='BuildRecordNeck', dim=2),"
    base += "\n head=dict(type='BuildRecordHead', dim=2,"
    base += "\n  matcher=dict(type='BuildRecordMatcher', costs=[dict(type='BuildRecordCost')])))"
    (tmp_path / "base.py").write_text(base)
    child = "_base_ = 'base.py'\n\nmodel = dict(neck=dict(dim=4))\n"
    (tmp_path / "child.py").write_text(dedent(child))
    return Config.load(tmp_path / "child.py")


def test_parts_are_in_the_order_of_construction(cfg: Config) -> None:
    build_record = build(cfg).build_record
    assert [part.path for part in build_record.parts] == [
        "",
        "head",
        "head.stem",
        "head.matcher",
        "head.matcher.costs.0",
        "head.out",
        "neck",
        "neck.convs",
        "neck.convs.0",
        "neck.convs.1",
    ]
    assert [part.order for part in build_record.parts] == list(range(10))


def test_a_part_names_its_class_its_maker_and_its_lines(cfg: Config) -> None:
    build_record = build(cfg).build_record
    stem, out = build_record.part("head.stem"), build_record.part("head.out")
    assert stem.made_by == f"{__name__}.BaseHead"
    assert out.made_by == f"{__name__}.Head"
    assert stem.made_at is not None and HERE in stem.made_at
    line = int(stem.made_at.rpartition(":")[2])
    assert "self.stem = nn.Linear" in Path(__file__).read_text().splitlines()[line - 1]
    assert stem.class_name == "Linear" and stem.name is None
    neck = build_record.part("neck")
    assert (neck.name, neck.registry, neck.config) == ("BuildRecordNeck", "models", "neck")
    assert neck.seconds > 0
    assert not build_record.part("head.matcher").module


def test_a_part_knows_its_config_and_who_wrote_each_value(cfg: Config) -> None:
    build_record = build(cfg).build_record
    neck = build_record.part("neck")
    assert build_record.config_of(neck) == {"type": "BuildRecordNeck", "dim": 4}
    origins = build_record.origins_of(neck)
    assert origins["dim"].endswith("child.py:3")
    assert origins["type"].endswith("base.py:3")
    cost = build_record.part("head.matcher.costs.0")
    assert cost.config == "head.matcher.costs.0"
    assert build_record.config_of(build_record.part("head.stem")) is None


def test_build_records_survive_json_and_can_be_compared(cfg: Config, tmp_path: Path) -> None:
    build_record = build(cfg).build_record
    build_record.save(tmp_path / "build_record.json")
    again = BuildRecord.load(tmp_path / "build_record.json")
    assert again == build_record
    assert build_record.compare(again) == []
    other = cfg.override({"model.neck.dim": 8, "model.head.matcher.costs": []})
    differences = [str(each) for each in build_record.compare(build(other).build_record)]
    assert differences == [
        "head.matcher.costs.0: part: 'Cost' -> None",
        "neck.dim: config: 4 -> 8",
        "head.matcher.costs.0.type: config: 'BuildRecordCost' -> None",
        "head.matcher.costs: config: None -> []",
    ]


def test_a_wrong_path_or_file_is_said(cfg: Config, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="no part 'haed'; did you mean 'head'"):
        build(cfg).build_record.part("haed")
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(BuildError, match="not a build record: 'parts'"):
        BuildRecord.load(tmp_path / "x.json")
    with pytest.raises(BuildError, match="cannot be read as a build record"):
        BuildRecord.load(tmp_path / "missing.json")


def test_a_class_of_ours_may_move_to_another_module() -> None:
    def record(name: str) -> BuildRecord:
        return BuildRecord((BuiltPart("", 0, name, None, None, "", None, None, None, 0.0),))

    assert record("cupola.models.a.Block").compare(record("cupola.models.b.Block")) == []
    assert record("cupola.models.a.Block").compare(record("cupola.models.a.Other"))
    assert record("theirs.a.Block").compare(record("theirs.b.Block"))
