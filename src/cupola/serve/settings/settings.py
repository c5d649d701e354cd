"""All settings of the server: name, type, default and description.

The settings file, the environment, the command line, `cupola check` and docs/settings.md are all
derived from these declarations. Times are in seconds, sizes in bytes.
"""

from pathlib import Path
from typing import Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
)

from cupola.cores import available_cores
from cupola.serve.settings.access import NO_LIMITS, ApiKey, Limits
from cupola.serve.settings.addresses import AddressSettings, has_module, parts_of
from cupola.serve.settings.network import check_origin, check_token


class Settings(AddressSettings):
    """The settings of the server. Unknown names are errors."""

    # Clients
    api_keys: list[ApiKey] = Field(
        default_factory=list,
        description="Keys, one of which each request must show, except for health checks; "
        "`cupola key` makes one.",
    )
    client_limits: Limits = Field(
        NO_LIMITS,
        description="`rate`, `burst` and `concurrency` of each client's address, over all workers.",
    )

    # Processes
    workers: PositiveInt | Literal["auto"] = Field(
        "auto", description="Number of HTTP processes; auto: the CPUs available in the cgroup."
    )
    master_process: bool = Field(True, description="Off: run everything in one process.")
    daemon: bool = Field(False, description="Detach from the terminal.")
    pid_file: Path | None = Field(None, description="File for the master's process id.")
    runtime_dir: Path | None = Field(
        None,
        description="Folder of sockets, status and large bodies; default: /dev/shm/cupola-UID.",
    )
    user: str | None = Field(None, description="User of workers and runners (root only).")
    group: str | None = Field(None, description="Group of workers and runners (root only).")
    working_directory: Path | None = Field(
        None, description="Working directory of workers and runners."
    )
    worker_priority: int = Field(0, ge=-20, le=19, description="Nice value of workers.")
    runner_priority: int = Field(0, ge=-20, le=19, description="Nice value of runners.")
    loading_priority: int = Field(
        10, ge=-20, le=19, description="Nice value of runners that load during a reload."
    )
    worker_cpu_affinity: list[list[int]] = Field(
        default_factory=list, description="CPU numbers for each worker, in rotation."
    )
    worker_rlimit_nofile: PositiveInt | None = Field(None, description="Open file limit.")
    worker_rlimit_core: int | None = Field(None, ge=0, description="Core file size limit.")
    environment: dict[str, str] = Field(
        default_factory=dict, description="Environment variables of workers and runners."
    )
    respawn_delay: PositiveFloat = Field(
        0.25, description="First delay before a child that keeps exiting early is respawned."
    )
    respawn_delay_max: PositiveFloat = Field(
        10.0, description="Maximum of that delay, which doubles each time."
    )
    min_uptime: PositiveFloat = Field(1.0, description="Uptime below which an exit is early.")
    ready_timeout: PositiveFloat = Field(
        120.0, description="Time limit for a new generation to become ready."
    )
    worker_shutdown_timeout: PositiveFloat = Field(
        60.0, description="Time limit for a draining worker; then it closes all connections."
    )

    drain_delay: NonNegativeFloat = Field(
        0.0,
        description="Time after QUIT or TERM during which the server reports that it is not ready "
        "but accepts connections, so that load balancers notice; another TERM ends it.",
    )

    # Connections
    worker_connections: PositiveInt = Field(4096, description="Maximum connections per worker.")
    client_connections: PositiveInt | None = Field(
        None,
        description="Maximum connections per worker of one address, other than a trusted "
        "proxy's; more are closed.",
    )
    header_timeout: PositiveFloat = Field(20.0, description="Time limit for a request's header.")
    body_timeout: PositiveFloat = Field(
        60.0, description="Time limit for a body, in addition to its size over `body_rate`."
    )
    body_rate: PositiveInt = Field(16384, description="Minimum bytes per second of a body.")
    send_timeout: PositiveFloat = Field(
        60.0, description="Time limit for a client to read more of an answer."
    )
    keepalive_timeout: PositiveFloat = Field(
        75.0, description="Time after which an idle connection is closed."
    )
    keepalive_grace: NonNegativeFloat = Field(10.0, description="The same while the worker drains.")
    keepalive_requests: PositiveInt = Field(
        1_000_000, description="Maximum requests per connection."
    )
    max_header: PositiveInt = Field(32 * 1024, description="Maximum size of a request's header.")
    max_body: PositiveInt = Field(
        256 * 1024**2, description="Maximum size of a body, after decompression."
    )
    shm_threshold: PositiveInt = Field(
        1024**2, description="Size above which bodies are passed in shared memory."
    )

    # Requests
    request_timeout: PositiveFloat = Field(
        60.0,
        description="Deadline of a request; of a stream, to its first chunk and between chunks.",
    )
    openai_strict: bool = Field(
        False,
        description="Refuse also the parameters of OpenAI's API that are accepted without effect.",
    )
    max_batch: PositiveInt | None = Field(
        None, description="Maximum batch size; overrides the models' defaults."
    )
    batch_delay: NonNegativeFloat = Field(
        0.0, description="Maximum time to wait for a batch to fill."
    )
    max_image_pixels: PositiveInt = Field(
        24_000_000,
        description="Maximum width x height of an image, of each model. Decoding takes 7 bytes of "
        "memory a pixel, however small the file; kinds that take more have a lower limit.",
    )
    queue_limit: PositiveInt = Field(
        256,
        description="Requests in flight per model, over all workers; more are answered 429. One "
        "with images counts one more for every million pixels.",
    )
    max_sequences: PositiveInt = Field(
        64,
        description="Sequences of a stateful model whose states a runner keeps at once; further "
        "ones are answered 429.",
    )
    sequence_timeout: PositiveFloat = Field(
        60.0, description="Idle time after which the state of a sequence is freed."
    )
    compute_threads: PositiveInt | None = Field(
        None,
        description="Threads per runner; default: the CPUs divided among the runners. Idle ones "
        "sleep soon, unless OMP_WAIT_POLICY or GOMP_SPINCOUNT says otherwise.",
    )
    runner_numa: bool = Field(
        True,
        description="Bind each runner process to one NUMA node, where there are several and its "
        "threads fit; the runners take the nodes in turn.",
    )
    max_runners: PositiveInt = Field(
        64, description="Runner processes above which a request to load a model is refused."
    )
    runner_max_requests: PositiveInt | None = Field(
        None,
        description="Requests after which a runner is replaced, up to a quarter more at random.",
    )
    runner_memory_limit: PositiveInt | None = Field(
        None,
        description="Memory of a runner, without files such as the shared weights, above which it "
        "is replaced after its requests; at twice as much it is killed.",
    )
    hang_timeout: PositiveFloat | None = Field(
        None,
        description="Time limit for one batch, after which the runner is killed; default: "
        "three quarters of request_timeout, so that its requests can still be answered.",
    )
    quarantine: Path | None = Field(
        None, description="Folder for requests that crashed two runners."
    )

    # Pages of other web sites
    cors_origins: list[str] = Field(
        default_factory=list,
        description="Origins such as https://app.example whose pages may use the server, or `*`.",
    )
    cors_methods: list[str] = Field(
        ["GET", "HEAD", "POST"], description="Methods that these pages may use."
    )
    cors_headers: list[str] = Field(
        ["Content-Type", "Content-Encoding", "Inference-Header-Content-Length",
         "X-Request-Id", "X-Request-Timeout"],
        description="Request header fields that these pages may send.",
    )  # fmt: skip
    cors_credentials: bool = Field(
        False, description="Let these pages send cookies and certificates; not with `*`."
    )
    cors_max_age: NonNegativeInt = Field(
        600, description="Time for which a browser may keep the answer to its preflight request."
    )

    # Response cache
    cache_path: Path | None = Field(None, description="Folder of the response cache; unset: off.")
    cache_max_size: PositiveInt = Field(1024**3, description="Maximum size of the cache.")
    cache_max_age: PositiveFloat = Field(86400.0, description="Maximum age of an entry.")
    cache_max_entry: PositiveInt = Field(8 * 1024**2, description="Maximum size of an entry.")
    cache_interval: PositiveFloat = Field(
        10.0, description="Maximum time between two runs of the cache manager."
    )
    cache_loader_delay: NonNegativeFloat = Field(
        60.0, description="Delay before the cache loader starts."
    )
    cache_loader_files: PositiveInt = Field(100, description="Files per step of the cache loader.")
    cache_loader_sleep: NonNegativeFloat = Field(0.05, description="Pause between these steps.")

    # Logs and endpoints
    error_log: str = Field("stderr", description="File, or stderr.")
    log_level: Literal["debug", "info", "notice", "warning", "error"] = Field(
        "notice", description="Minimum severity in the error log."
    )
    access_log: str = Field("off", description="File, stdout, or off.")
    access_log_format: Literal["text", "json"] = Field(
        "text", description="Format of its lines, one per request."
    )
    otel_endpoint: str | None = Field(
        None,
        pattern=r"^https?://[^\s]+$",
        description="Collector of OpenTelemetry that takes OTLP over HTTP, such as "
        "http://127.0.0.1:4318; needs the extra `otel`; unset: off.",
    )
    otel_sampling: float = Field(
        1.0, ge=0, le=1, description="Part of the traces that begin here which are recorded."
    )
    otel_interval: PositiveFloat = Field(60.0, description="Time between two exports of metrics.")
    pages: bool = Field(True, description="Serve the web pages.")
    admin: str = Field(
        "off",
        pattern=r"^(off|on|unix:/.+)$",
        description="Load, unload and reload over HTTP: off, on, or unix:/path.",
    )
    admin_hosts: list[str] = Field(
        default_factory=list,
        description="Host names with dots that admin requests may use.",
    )

    @field_validator(
        "admin_hosts", "cors_origins", "cors_methods", "cors_headers", mode="before",
    )  # fmt: skip
    @classmethod
    def _split_names(cls, value: object) -> object:
        return parts_of(value)

    @field_validator("otel_endpoint")
    @classmethod
    def _check_otel(cls, value: str | None) -> str | None:
        needed = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http")
        if value and not all(map(has_module, needed)):
            raise ValueError("needs the extra `otel`: pip install 'cupola[otel]'")
        return value

    @field_validator("api_keys")
    @classmethod
    def _check_keys(cls, value: list[ApiKey]) -> list[ApiKey]:
        for kind in ("name", "hash"):
            found = [getattr(key, kind) for key in value]
            if twice := [one for one in found if found.count(one) > 1]:
                raise ValueError(f"the {kind} {twice[0]!r} appears twice")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, value: list[str]) -> list[str]:
        return [check_origin(one) for one in value]

    @field_validator("cors_methods", "cors_headers")
    @classmethod
    def _check_tokens(cls, value: list[str]) -> list[str]:
        return [check_token(one) for one in value]

    @field_validator("cors_credentials")
    @classmethod
    def _check_credentials(cls, value: bool, info: ValidationInfo) -> bool:
        for name in ("cors_origins", "cors_methods", "cors_headers"):
            if value and "*" in info.data.get(name, []):
                raise ValueError(f"with credentials, {name} must list what is allowed, not *")
        return value

    @property
    def hang_limit(self) -> float:
        """`hang_timeout` in seconds, or what it follows from."""
        return self.hang_timeout or 0.75 * self.request_timeout

    @property
    def worker_count(self) -> int:
        """`workers`, with `auto` resolved."""
        return available_cores() if self.workers == "auto" else self.workers
