"""available_cores and NUMA nodes, on trees of files as the kernel shows them."""

import os
import re
from pathlib import Path

import pytest

from cupola import cores

AFFINITY = set(range(8))


@pytest.fixture(autouse=True)
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(AFFINITY))


def count(tmp_path: Path, membership: str) -> int:
    (tmp_path / "self").write_text(membership)
    return cores.available_cores(tmp_path / "cgroup", tmp_path / "self")


def limit(tmp_path: Path, group: str, text: str) -> None:
    folder = tmp_path / "cgroup" / group
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.max").write_text(text)


def limit_v1(tmp_path: Path, group: str, quota: int, period: int = 100_000) -> None:
    folder = tmp_path / "cgroup" / group
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.cfs_quota_us").write_text(str(quota))
    (folder / "cpu.cfs_period_us").write_text(str(period))


def test_without_a_cgroup_the_affinity_counts(tmp_path: Path) -> None:
    assert count(tmp_path, "0::/\n") == 8
    assert cores.available_cores(tmp_path / "none", tmp_path / "nothing") == 8


@pytest.mark.parametrize(
    ("text", "expected"),
    [("max 100000\n", 8), ("300000 100000\n", 3), ("150000 100000\n", 1), ("5000 100000\n", 1)],
)
def test_version_2_in_a_container(tmp_path: Path, text: str, expected: int) -> None:
    limit(tmp_path, "", text)
    assert count(tmp_path, "0::/\n") == expected


def test_version_2_counts_every_group_above(tmp_path: Path) -> None:
    """Under systemd the process is in a service's group, inside a slice."""
    limit(tmp_path, "system.slice", "400000 100000\n")
    limit(tmp_path, "system.slice/cupola.service", "max 100000\n")
    assert count(tmp_path, "0::/system.slice/cupola.service\n") == 4
    limit(tmp_path, "system.slice/cupola.service", "200000 100000\n")
    assert count(tmp_path, "0::/system.slice/cupola.service\n") == 2
    assert count(tmp_path, "0::/user.slice\n") == 8


@pytest.mark.parametrize("folder", ["cpu", "cpu,cpuacct"])
def test_version_1(tmp_path: Path, folder: str) -> None:
    limit_v1(tmp_path, folder, -1)
    limit_v1(tmp_path, f"{folder}/docker/4f", 250_000)
    lines = "11:memory:/docker/4f\n4:cpu,cpuacct:/docker/4f\n0::/\n"
    assert count(tmp_path, lines) == 2
    assert count(tmp_path, "4:cpu,cpuacct:/other\n") == 8
    limit_v1(tmp_path, folder, 600_000)  # a container that sees its own group as the root
    assert count(tmp_path, "4:cpu,cpuacct:/elsewhere\n") == 6


def test_files_that_make_no_sense_are_ignored(tmp_path: Path) -> None:
    limit(tmp_path, "", "many few\n")
    limit_v1(tmp_path, "cpu", 100_000, 0)
    assert count(tmp_path, "0::/\n") == 8


def nodes(tmp_path: Path, *lists: str) -> Path:
    for number, text in enumerate(lists):
        (tmp_path / f"node{number}").mkdir()
        (tmp_path / f"node{number}" / "cpulist").write_text(text + "\n")
    (tmp_path / "possible").write_text("0-1\n")
    return tmp_path


def test_numa_nodes(tmp_path: Path) -> None:
    root = nodes(tmp_path, "0-1,6", "2-5", "", "8-15", "7")
    assert cores.numa_nodes(root) == [{0, 1, 6}, {2, 3, 4, 5}, {7}]
    assert cores.node_for(0, 3, root) == {0, 1, 6}
    assert cores.node_for(1, 3, root) == {2, 3, 4, 5}
    assert cores.node_for(2, 3, root) == {0, 1, 6}  # the third node is too small
    assert cores.node_for(2, 1, root) == {7}
    assert cores.node_for(0, 5, root) is None  # no node has five CPUs


def test_ten_nodes_are_in_order(tmp_path: Path) -> None:
    root = nodes(tmp_path, *(str(cpu % 8) for cpu in range(11)))
    assert cores.numa_nodes(root)[10] == {2}


def test_one_node_or_none_binds_nothing(tmp_path: Path) -> None:
    assert cores.node_for(0, 1, nodes(tmp_path, "0-7")) is None
    assert cores.numa_nodes(tmp_path / "missing") == []
    (tmp_path / "node0" / "cpulist").write_text("what")
    assert cores.numa_nodes(tmp_path) == []


@pytest.mark.parametrize("text", ["a", "1-", "1-b", "1;2"])
def test_cpu_lists_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        cores.cpu_list(text)


@pytest.mark.parametrize(
    ("processes", "threads", "cores_", "expected"),
    [
        (2, 2, 4, ""),
        (3, 1, 4, ""),
        (2, 4, 4, "2 runner processes of 4 compute threads share 4 cores.*compute_threads to 2$"),
        (6, 2, 4, "compute_threads to 1 and have fewer runners$"),
        (
            6,
            1,
            4,
            "6 runner processes of 1 compute thread share 4 cores.*down; have fewer runners$",
        ),
    ],
)
def test_more_threads_than_cores(processes: int, threads: int, cores_: int, expected: str) -> None:
    found = cores.oversubscribed(processes, threads, cores_)
    assert re.search(expected, found)
    assert bool(found) == bool(expected)


@pytest.mark.parametrize(("granted", "expected"), [(2, "2"), (8, None)])
def test_commands_respect_the_quota(
    monkeypatch: pytest.MonkeyPatch, granted: int, expected: str | None
) -> None:
    monkeypatch.setattr(cores, "available_cores", lambda: granted)
    monkeypatch.setattr(os, "environ", {})
    cores.respect_quota()
    assert os.environ.get("OMP_NUM_THREADS") == expected
    os.environ["OMP_NUM_THREADS"] = "3"
    cores.respect_quota()
    assert os.environ["OMP_NUM_THREADS"] == "3"
