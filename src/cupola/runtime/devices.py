"""The device that a predictor runs on."""

import torch

from cupola.errors import InputError

CPU = torch.device("cpu")


def find_device(name: str | torch.device | None = None) -> torch.device:
    """A device by its name in torch: "cpu", "cuda", "cuda:1", "mps", ...; the CPU by default.

    Raises InputError, in one line, for a name that is none and for a device that is not there.
    """
    try:
        device = torch.device(name or "cpu")
    except (RuntimeError, TypeError):
        raise InputError(f"device {name!r}: not a device; name one of {_listed()}") from None
    if device.type == "meta":
        raise InputError(f"device 'meta': holds no values to compute with; name {_listed()}")
    try:
        torch.empty(1, device=device)
    except Exception as error:  # each backend has errors of its own
        why = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise InputError(
            f"device {str(device)!r}: not on this machine ({why}); name {_listed()}"
        ) from None
    return device


def available() -> list[str]:
    """The devices of this machine that torch can use."""
    found = ["cpu"]
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is not None and torch.accelerator.is_available():
        found += [f"{accelerator.type}:{i}" for i in range(torch.accelerator.device_count())]
    return found


def _listed() -> str:
    return " or ".join(repr(name) for name in available())
