"""The device that a predictor runs on."""

import torch
from torch import Tensor

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


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device. From and to a GPU through pinned memory, to it without waiting."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    if device.type == "cpu" and tensor.device.type == "cuda":
        pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        return pinned.copy_(tensor).clone()  # pinned memory is scarce, and used again
    return tensor.to(device)


def use_own_stream(device: torch.device) -> None:
    """Lets this thread compute on a CUDA stream of its own, after all that was begun before."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.set_stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]


def limit_memory(device: torch.device, limit: int) -> None:
    """Lets this process take at most `limit` bytes of a CUDA device for its tensors."""
    if device.type == "cuda":
        whole = torch.cuda.get_device_properties(device).total_memory
        number = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / whole), number)


def available() -> list[str]:
    """The devices of this machine that torch can use."""
    found = ["cpu"]
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is not None and torch.accelerator.is_available():
        found += [f"{accelerator.type}:{i}" for i in range(torch.accelerator.device_count())]
    return found


def _listed() -> str:
    return " or ".join(repr(name) for name in available())
