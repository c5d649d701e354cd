"""The names of optimizations, for settings and options; importing this loads no torch."""

from cupola.errors import InputError, did_you_mean

AUTO = ("auto", "auto-int8")
NETWORK = (
    "eager",
    "folded",
    "compiled",
    "onnxruntime",
    "openvino",
    "cuda-graph",
    "half",
    "int8",
    "onnxruntime-int8",
)
LANGUAGE = ("none", "packed", "int8", "int4")
OPTIMIZATIONS = (*AUTO, "none", *NETWORK, "packed", "int4")
BUILD_SECONDS = 20.0  # in which "auto" may build graphs; what takes longer is left out
ALL_SECONDS = 900.0  # the same for `cupola explain --optimizations`, and for a named engine


def checked(name: str, task: str | None = None, source: str = "optimization") -> str:
    """The name as the task spells it; InputError for an unknown one, with the nearest."""
    if name not in OPTIMIZATIONS:
        hint = did_you_mean(name, OPTIMIZATIONS)
        raise InputError(f"{source} must be one of {', '.join(OPTIMIZATIONS)}, not {name!r}{hint}")
    if task is None:
        return name
    language = task == "language"
    if name in ("none", "eager"):  # two names of the same
        return "none" if language else "eager"
    known = (*AUTO, *(LANGUAGE if language else NETWORK))
    if name not in known:
        kind = "a language model" if language else f"a {task} model"
        raise InputError(f"{source} {name!r} is not for {kind}; expected one of {', '.join(known)}")
    return name
