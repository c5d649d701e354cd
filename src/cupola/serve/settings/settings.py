"""All settings of the server: name, type, default and description.

The settings file, the environment, the command line, `cupola check` and docs/settings.md are all
derived from these declarations. Times are in seconds, sizes in bytes.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
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
from cupola.serve.settings.network import check_network, check_origin, check_token


class ModelSettings(BaseModel):
    """One model to serve: where its bundle is, and how to run it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bundle: str = Field(
        description="Name of a shipped bundle, a folder, or hf://ORG/NAME[@REVISION]."
    )
    name: str | None = Field(None, description="Name in URLs; default: the bundle's name.")
    version: str | None = Field(None, description="Version in URLs; default: the bundle's version.")
    runners: PositiveInt = Field(1, description="Number of processes that run this model.")
    device: str = Field(
        "cpu", description='Where the model computes: "cpu", "cuda", "cuda:1", "mps", ...'
    )
    tensor_parallel: PositiveInt = Field(
        1, description="Number of processes that each copy of a language model is split over."
    )
    optimization: str = Field(
        "auto",
        description="How the network is executed: `auto` (the fastest exact engine of this "
        "machine, measured when a large model is first loaded), `auto-int8`, `eager`, `folded`, "
        "`compiled`, `onnxruntime`, `openvino`, `int8`, `onnxruntime-int8`; a language model: "
        "`auto`, `auto-int8`, `none`, `packed`, `int8`, `int4`.",
    )
    deterministic: bool | None = Field(
        None,
        description="Give a text the same bits in every batch and with 1, 2 or 4 processes.",
    )
    lookup_tokens: NonNegativeInt | None = Field(
        None,
        description="Tokens guessed from the text so far and checked in one step; 0: none.",
    )
    max_batch: PositiveInt | None = Field(None, description="Maximum batch size.")
    batch_delay: NonNegativeFloat | None = Field(
        None, description="Maximum time to wait for a batch to fill."
    )
    queue_limit: PositiveInt | None = Field(
        None, description="Requests in flight above which the answer is 429."
    )
    cache: bool = Field(False, description="Store answers in the response cache.")
    max_image_pixels: PositiveInt | None = Field(
        None, description="Maximum width x height of an image."
    )

    runner_max_requests: PositiveInt | None = Field(
        None, description="Requests after which a runner is replaced."
    )
    runner_memory_limit: PositiveInt | None = Field(
        None, description="Memory above which a runner is replaced."
    )


class Settings(BaseModel):
    """The settings of the server. Unknown names are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # Addresses and models
    listen: list[str] = Field(
        ["127.0.0.1:8000"],
        description="Addresses: HOST:PORT, [IPV6]:PORT, unix:/path, or systemd.",
        min_length=1,
    )
    operations_listen: list[str] = Field(
        default_factory=list,
        description="Addresses for operators: if set, /metrics, /status and the admin endpoints "
        "are answered there (and on the admin socket), but not on `listen`.",
    )
    grpc_listen: list[str] = Field(
        default_factory=list,
        description="Addresses that speak gRPC: the Open Inference Protocol, health checking and "
        "reflection; needs the extra `grpc`.",
    )
    proxy_protocol: list[str] = Field(
        default_factory=list,
        description="Those of the addresses on which each connection starts with the PROXY "
        "protocol, version 1 or 2; needs `trusted_proxies`.",
    )
    trusted_proxies: list[str] = Field(
        default_factory=list,
        validate_default=True,
        description="Addresses and CIDR networks of proxies, or `unix:`, whose X-Forwarded-For, "
        "X-Forwarded-Proto and PROXY protocol are believed.",
    )
    reuseport: bool = Field(False, description="Open one listening socket per worker.")
    backlog: PositiveInt = Field(1024, description="Size of the kernel's accept queue.")
    models: list[ModelSettings] = Field(
        default_factory=list, description="Models to serve; default: all shipped bundles."
    )
    model_dir: Path | None = Field(
        None,
        description="Folder whose models are served, instead of `models`: a bundle, a folder of "
        "transformers, a config with its checkpoint, or folders with one of these each.",
    )
    model_name: str | None = Field(
        None, description="Name in URLs of the model of `model_dir`, if it is the only one."
    )
    model_defaults: dict[str, Any] = Field(
        default_factory=dict,
        description="Settings of each model of `model_dir`, as in `models`: `{device: cuda}`.",
    )
    offline: bool = Field(
        False, description="Download nothing; hf:// ids must be in the Hugging Face cache."
    )
    plugins: list[str] = Field(default_factory=list, description="Modules to import in runners.")
    tls_certificate: Path | None = Field(None, description="PEM chain; enables TLS.")
    tls_key: Path | None = Field(None, description="PEM key of the certificate.")
    tls_client_ca: Path | None = Field(
        None,
        description="PEM certificates of the authorities whose clients are accepted; enables "
        "mutual TLS.",
    )
    tls_client_verify: Literal["required", "optional"] = Field(
        "required", description="Whether a client must show a certificate."
    )

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
        "listen", "operations_listen", "grpc_listen", "proxy_protocol", "trusted_proxies",
        "plugins", "admin_hosts", "cors_origins", "cors_methods", "cors_headers", mode="before",
    )  # fmt: skip
    @classmethod
    def _split_string(cls, value: object) -> object:
        return [part.strip() for part in value.split(",")] if isinstance(value, str) else value

    @field_validator("model_dir")
    @classmethod
    def _check_one_source(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None and info.data.get("models"):
            raise ValueError("models and model_dir are both given; remove one")
        return value

    @field_validator("model_name", "model_defaults")
    @classmethod
    def _check_dir(cls, value: Any, info: ValidationInfo) -> Any:
        if value and info.data.get("model_dir") is None:
            raise ValueError("only for the models of model_dir, which is not set")
        return value

    @field_validator("model_defaults")
    @classmethod
    def _check_defaults(cls, value: dict[str, Any]) -> dict[str, Any]:
        if found := sorted({"bundle", "name", "version"} & set(value)):
            raise ValueError(f"{found[0]} differs from model to model; see models")
        ModelSettings.model_validate({"bundle": "", **value})
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _check_networks(cls, value: list[str], info: ValidationInfo) -> list[str]:
        if info.data.get("proxy_protocol") and not value:
            raise ValueError("proxy_protocol needs trusted_proxies: others may forge addresses")
        return [check_network(one) for one in value]

    @field_validator("proxy_protocol")
    @classmethod
    def _check_proxied(cls, value: list[str], info: ValidationInfo) -> list[str]:
        groups = ("listen", "operations_listen", "grpc_listen")
        known = [address for name in groups for address in info.data.get(name, [])]
        for address in value:
            if address not in known:
                raise ValueError(f"{address!r} is in none of {', '.join(groups)}")
        return value

    @field_validator("operations_listen", "grpc_listen")
    @classmethod
    def _check_other_addresses(cls, value: list[str], info: ValidationInfo) -> list[str]:
        for name in ("listen", "operations_listen"):
            if both := [one for one in value if one in info.data.get(name, [])]:
                raise ValueError(f"{both[0]!r} is in {name}, too")
        if "systemd" in value:
            raise ValueError("sockets of systemd belong to listen")
        return value

    @field_validator("grpc_listen")
    @classmethod
    def _check_extra(cls, value: list[str]) -> list[str]:
        if value and not (has_module("hpack") and has_module("google.protobuf")):
            raise ValueError("needs the extra `grpc`: pip install 'cupola[grpc]'")
        return value

    @field_validator("otel_endpoint")
    @classmethod
    def _check_otel(cls, value: str | None) -> str | None:
        needed = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http")
        if value and not all(map(has_module, needed)):
            raise ValueError("needs the extra `otel`: pip install 'cupola[otel]'")
        return value

    @field_validator("tls_client_ca")
    @classmethod
    def _check_client_ca(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None and info.data.get("tls_certificate") is None:
            raise ValueError("needs tls_certificate")
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

    @field_validator("models", mode="before")
    @classmethod
    def _from_names(cls, value: object) -> object:
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",")]
        if isinstance(value, list):
            return [{"bundle": item} if isinstance(item, str) else item for item in value]
        return value

    @property
    def hang_limit(self) -> float:
        """`hang_timeout` in seconds, or what it follows from."""
        return self.hang_timeout or 0.75 * self.request_timeout

    @property
    def worker_count(self) -> int:
        """`workers`, with `auto` resolved."""
        return available_cores() if self.workers == "auto" else self.workers


def has_module(name: str) -> bool:
    """Whether a module is installed, without importing it."""
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # of its package
        return False
