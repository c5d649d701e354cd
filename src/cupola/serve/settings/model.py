"""Settings of one model."""

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveInt


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
    device_memory: PositiveInt | None = Field(
        None, description="Memory of the GPU, in bytes, that each runner may take at most."
    )
    tensor_parallel: PositiveInt = Field(
        1, description="Number of processes that each copy of a language model is split over."
    )
    optimization: str = Field(
        "auto",
        description="How the network is executed: `auto` (the fastest exact engine of this "
        "machine, measured when a large model is first loaded), `auto-int8`, `eager`, `folded`, "
        "`compiled`, `onnxruntime`, `openvino`, `cuda-graph`, `half`, `int8`, `onnxruntime-int8`; "
        "a language model: `auto`, `auto-int8`, `none`, `packed`, `int8`, `int4`.",
    )
    tta: bool = Field(
        False,
        description="Detectors: merge what is found in several views of an image, as the config "
        "of the model declares them (test-time augmentation).",
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
