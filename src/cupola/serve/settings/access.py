"""Settings of API keys and of limits."""

import re

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
)

_HASH = re.compile(r"sha256:[0-9a-f]{64}")


class Limits(BaseModel):
    """Limits of one key, or of each client."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rate: PositiveFloat | None = Field(None, description="Requests per second.")
    burst: NonNegativeInt = Field(
        0, description="Requests by which the rate may be exceeded at once."
    )
    concurrency: PositiveInt | None = Field(None, description="Requests in progress.")


NO_LIMITS = Limits.model_validate({})


class ApiKey(BaseModel):
    """One API key, as `cupola key NAME` prints it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(
        pattern=r"^[\w.@-]{1,64}$", description="Name in logs and errors; not secret."
    )
    hash: str = Field(description="sha256: and the SHA-256 of the key, in hexadecimal digits.")
    models: list[str] | None = Field(None, description="Models it may use; default: all.")
    operations: bool = Field(
        False,
        description="It may use /metrics, /status.json and, with `admin`, the admin endpoints.",
    )
    limits: Limits = Field(NO_LIMITS, description="Its `rate`, `burst` and `concurrency`.")

    @field_validator("hash")
    @classmethod
    def _check_hash(cls, value: str) -> str:
        if not _HASH.fullmatch(value):
            raise ValueError("expected `sha256:` and 64 hexadecimal digits; see `cupola key`")
        return value
