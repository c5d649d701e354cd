"""Settings of what is served where: addresses, models and certificates."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationInfo, field_validator

from cupola.serve.settings.model import ModelSettings
from cupola.serve.settings.network import check_network


class AddressSettings(BaseModel):
    """The first part of :class:`Settings`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

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

    @field_validator(
        "listen", "operations_listen", "grpc_listen", "proxy_protocol", "trusted_proxies",
        "plugins", mode="before",
    )  # fmt: skip
    @classmethod
    def _split_string(cls, value: object) -> object:
        return parts_of(value)

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

    @field_validator("tls_client_ca")
    @classmethod
    def _check_client_ca(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None and info.data.get("tls_certificate") is None:
            raise ValueError("needs tls_certificate")
        return value

    @field_validator("models", mode="before")
    @classmethod
    def _from_names(cls, value: object) -> object:
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",")]
        if isinstance(value, list):
            return [{"bundle": item} if isinstance(item, str) else item for item in value]
        return value


def parts_of(value: object) -> object:
    """The parts of a text with commas; other values as they are."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def has_module(name: str) -> bool:
    """Whether a module is installed, without importing it."""
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # of its package
        return False
