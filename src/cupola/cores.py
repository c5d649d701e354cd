"""The CPU cores that this process may use: affinity, cgroup quotas, NUMA nodes. No torch."""

import os
from collections.abc import Iterator
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
NODES = Path("/sys/devices/system/node")
SPINS = 10_000  # turns for which an idle compute thread waits; GNU OpenMP does 300,000


def available_cores(cgroup: Path = CGROUP, membership: Path = MEMBERSHIP) -> int:
    """Number of cores that this process may use, by affinity mask and cgroup quota; at least 1.

    The quota is the smallest of the process's own cgroup and all above it, in version 1 or 2.
    """
    cores = len(os.sched_getaffinity(0))
    quotas = [quota for folder in _folders(cgroup, membership) if (quota := _quota(folder))]
    return max(1, min(cores, *(int(quota) for quota in quotas))) if quotas else cores


def numa_nodes(nodes: Path = NODES) -> list[set[int]]:
    """The CPUs of each NUMA node that this process may use; nodes without one are left out."""
    allowed = os.sched_getaffinity(0)
    numbered = [path for path in nodes.glob("node*") if path.name[4:].isdecimal()]
    found = []
    for path in sorted(numbered, key=lambda path: int(path.name[4:])):
        try:
            found.append(cpu_list((path / "cpulist").read_text()) & allowed)
        except (OSError, ValueError):  # the kernel has no NUMA, or a file that we do not know
            return []
    return [cpus for cpus in found if cpus]


def cpu_list(text: str) -> set[int]:
    """The kernel's notation of CPUs: "0-3,8" -> {0, 1, 2, 3, 8}. ValueError for anything else."""
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, dash, last = part.partition("-")
        found.update(range(int(first), int(last if dash else first) + 1))
    return found


def node_for(number: int, threads: int, nodes: Path = NODES) -> set[int] | None:
    """The CPUs of the NUMA node for the process of this number; processes take the nodes in turn.

    None if there is only one node, or no node has as many CPUs as the process has threads: its
    memory would then be on one node and its threads on several anyway.
    """
    found = numa_nodes(nodes)
    if len(found) < 2:
        return None
    wide = [cpus for cpus in found if len(cpus) >= threads]
    return wide[number % len(wide)] if wide else None


def respect_quota() -> None:
    """Lets torch have as many threads as the cgroup grants cores; effective before it is imported.

    By itself it counts the CPUs, so that a container with two of 64 cores would run 64 threads.
    OMP_NUM_THREADS of the user takes precedence.
    """
    cores = available_cores()
    if cores < len(os.sched_getaffinity(0)):
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))


def limit_spinning() -> None:
    """Lets idle compute threads sleep soon; only effective before torch is imported.

    A thread that spins takes a CPU from other processes: beside one that was busy, a model with two
    compute threads on two CPUs was twenty times slower. On an idle machine SPINS turns are enough.
    OMP_WAIT_POLICY and GOMP_SPINCOUNT of the user take precedence.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))


def oversubscribed(processes: int, threads: int, cores: int) -> str:
    """What to do if so many processes have more threads than there are cores; "" if not."""
    if processes * threads <= cores:
        return ""
    advice = f"set compute_threads to {max(1, cores // processes)}"
    if threads == 1:
        advice = "have fewer runners"
    elif processes > cores:
        advice += " and have fewer runners"
    each = "1 compute thread" if threads == 1 else f"{threads} compute threads"
    return (
        f"{processes} runner processes of {each} share {cores} cores and slow each other down; "
        f"{advice}"
    )


def _folders(cgroup: Path, membership: Path) -> Iterator[Path]:
    """Folders that may limit this process: its cgroup in each hierarchy, and those above it."""
    yield from (cgroup, cgroup / "cpu", cgroup / "cpu,cpuacct")
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        own = Path(path.lstrip("/"))
        for part in (own, *own.parents):
            yield from (
                cgroup / name / part for name in {controllers, "cpu" if controllers else ""}
            )


def _quota(folder: Path) -> float | None:
    """Cores that a cgroup grants; None without a limit."""
    try:  # version 2
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:  # version 1
        quota_us = int((folder / "cpu.cfs_quota_us").read_text())
        return None if quota_us < 0 else quota_us / int((folder / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError, ZeroDivisionError):
        return None
