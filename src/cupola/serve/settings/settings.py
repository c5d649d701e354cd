"""Every setting of the server, each declared once: its name, type, default and meaning.

The file, the environment, the command line, `cupola check` and docs/settings.md all read this
table. Times are seconds, sizes are bytes.
"""

import os
from pathlib import Path
from typing import Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    field_validator,
)


class ModelSettings(BaseModel):
    """One model to serve: a shipped bundle's name or a bundle folder, and how to run it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bundle: str = Field(description="A shipped bundle's name, or a bundle folder.")
    name: str | None = Field(None, description="Name in URLs; the bundle's own by default.")
    version: str | None = Field(None, description="Version in URLs; the bundle's own by default.")
    runners: PositiveInt = Field(1, description="How many processes run this model.")
    tensor_parallel: PositiveInt = Field(
        1, description="Processes that share each copy of a language model, a slice for each."
    )
    optimization: Literal["none", "packed", "int8"] | None = Field(
        None, description="How a language model is executed; the bundle's own setting by default."
    )
    max_batch: PositiveInt | None = Field(None, description="Samples that may run together.")
    batch_delay: NonNegativeFloat | None = Field(
        None, description="How long a sample waits for company."
    )
    queue_limit: PositiveInt | None = Field(None, description="Requests held before 429.")
    cache: bool = Field(False, description="Keep answers in the response cache.")


class Settings(BaseModel):
    """The whole server. Unknown names are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # Where it listens, and what it serves
    listen: list[str] = Field(
        ["127.0.0.1:8000"],
        description="Addresses: HOST:PORT, [IPV6]:PORT, unix:/path, or systemd.",
        min_length=1,
    )
    reuseport: bool = Field(False, description="One listening socket for each worker.")
    backlog: PositiveInt = Field(1024, description="Connections the kernel holds for us.")
    models: list[ModelSettings] = Field(
        default_factory=list, description="Models to serve; empty: every shipped bundle."
    )
    plugins: list[str] = Field(default_factory=list, description="Modules to import with a model.")
    tls_certificate: Path | None = Field(None, description="PEM chain; turns TLS on.")
    tls_key: Path | None = Field(None, description="PEM key of the certificate.")

    # Processes
    workers: PositiveInt | Literal["auto"] = Field(
        "auto", description="Processes that speak HTTP; auto: the CPUs that the cgroup grants."
    )
    master_process: bool = Field(True, description="Off: one process does it all.")
    daemon: bool = Field(False, description="Detach from the terminal.")
    pid_file: Path | None = Field(None, description="Where the master writes its process id.")
    runtime_dir: Path | None = Field(
        None, description="Sockets, status and large bodies; /dev/shm/cupola-UID by default."
    )
    user: str | None = Field(None, description="User of the workers and runners (root only).")
    group: str | None = Field(None, description="Group of the workers and runners (root only).")
    working_directory: Path | None = Field(None, description="Where workers and runners stand.")
    worker_priority: int = Field(0, ge=-20, le=19, description="Nice value of workers.")
    runner_priority: int = Field(0, ge=-20, le=19, description="Nice value of runners.")
    loading_priority: int = Field(
        10, ge=-20, le=19, description="Nice value while a later generation loads its models."
    )
    worker_cpu_affinity: list[list[int]] = Field(
        default_factory=list, description="CPU numbers for each worker, in turn."
    )
    worker_rlimit_nofile: PositiveInt | None = Field(None, description="Open files of a worker.")
    worker_rlimit_core: int | None = Field(None, ge=0, description="Core file size of a worker.")
    environment: dict[str, str] = Field(
        default_factory=dict, description="Variables for workers and runners."
    )
    respawn_delay: PositiveFloat = Field(
        0.25, description="First wait before a child that died young is started again; doubles."
    )
    respawn_delay_max: PositiveFloat = Field(10.0, description="Longest such wait.")
    young: PositiveFloat = Field(1.0, description="A child that lived shorter died young.")
    ready_timeout: PositiveFloat = Field(
        120.0, description="How long a new generation may take until it is ready."
    )
    worker_shutdown_timeout: PositiveFloat = Field(
        60.0, description="A draining worker closes what is still open after this."
    )

    # Connections
    worker_connections: PositiveInt = Field(4096, description="Open connections of a worker.")
    header_timeout: PositiveFloat = Field(20.0, description="For a request's whole header.")
    body_timeout: PositiveFloat = Field(60.0, description="For a body, besides its size's due.")
    body_rate: PositiveInt = Field(16384, description="Bytes a second that a body must keep up.")
    send_timeout: PositiveFloat = Field(60.0, description="For a client to take more bytes.")
    keepalive_timeout: PositiveFloat = Field(75.0, description="Idle connections close after.")
    keepalive_grace: NonNegativeFloat = Field(
        10.0, description="A draining worker keeps a connection that was idle for less."
    )
    keepalive_requests: PositiveInt = Field(1_000_000, description="Requests on a connection.")
    max_header: PositiveInt = Field(32 * 1024, description="Bytes of a request's header.")
    max_body: PositiveInt = Field(256 * 1024**2, description="Bytes of a body, unpacked.")
    shm_threshold: PositiveInt = Field(
        1024**2, description="Larger bodies travel to the runner in shared memory."
    )

    # Requests
    request_timeout: PositiveFloat = Field(60.0, description="Deadline of a request.")
    max_batch: PositiveInt | None = Field(None, description="Overrides every model's own.")
    batch_delay: NonNegativeFloat = Field(0.0, description="Wait for company in a batch.")
    queue_limit: PositiveInt = Field(
        256, description="Requests that all workers may hold for a model before 429."
    )
    compute_threads: PositiveInt | None = Field(
        None, description="Threads of a runner; the CPUs shared among the runners by default."
    )
    hang_timeout: PositiveFloat = Field(
        120.0, description="A runner that stays in one batch for longer is killed."
    )
    quarantine: Path | None = Field(
        None, description="Where requests that killed two runners are set aside."
    )

    # Response cache
    cache_path: Path | None = Field(None, description="Folder of the response cache; none: off.")
    cache_max_size: PositiveInt = Field(1024**3, description="Size the manager keeps.")
    cache_max_age: PositiveFloat = Field(86400.0, description="Age the manager keeps.")
    cache_max_entry: PositiveInt = Field(8 * 1024**2, description="Larger answers stay out.")
    cache_interval: PositiveFloat = Field(10.0, description="The manager's longest sleep.")
    cache_loader_delay: NonNegativeFloat = Field(60.0, description="The loader starts after.")
    cache_loader_files: PositiveInt = Field(100, description="Files in one step of the loader.")
    cache_loader_sleep: NonNegativeFloat = Field(0.05, description="Between steps.")

    # What it tells
    error_log: str = Field("stderr", description="File, or stderr.")
    log_level: Literal["debug", "info", "notice", "warning", "error"] = Field(
        "notice", description="Least severity in the error log."
    )
    access_log: str = Field("off", description="File, stdout, or off.")
    access_log_format: Literal["text", "json"] = Field("text", description="One line a request.")
    pages: bool = Field(True, description="The page at / and the status page.")
    admin: str = Field(
        "off",
        pattern=r"^(off|on|unix:/.+)$",
        description="Load, unload and reload over HTTP: off, on, or unix:/path.",
    )

    @field_validator("listen", "plugins", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: object) -> object:
        return [part.strip() for part in value.split(",")] if isinstance(value, str) else value

    @field_validator("models", mode="before")
    @classmethod
    def _names_are_models(cls, value: object) -> object:
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",")]
        if isinstance(value, list):
            return [{"bundle": item} if isinstance(item, str) else item for item in value]
        return value

    @property
    def worker_count(self) -> int:
        """`workers`, with auto resolved."""
        return granted_cpus() if self.workers == "auto" else self.workers


def granted_cpus(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """CPUs that this process may use: affinity mask and cgroup quota, at least 1."""
    cpus = len(os.sched_getaffinity(0))
    quota = _cgroup_quota(cgroup)
    return max(1, min(cpus, int(quota))) if quota else cpus


def _cgroup_quota(root: Path) -> float | None:
    try:  # version 2
        quota, period = (root / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:  # version 1
        quota_us = int((root / "cpu/cpu.cfs_quota_us").read_text())
        period_us = int((root / "cpu/cpu.cfs_period_us").read_text())
        return None if quota_us < 0 else quota_us / period_us
    except (OSError, ValueError):
        return None
