"""Devices by name; those that this machine does not have are refused."""

import os

from headwise.errors import HeadwiseError

__all__ = ["device_named"]


def device_named(name: str) -> str:
    """The device with this name; for "auto", a GPU if there is one.

    Raises:
        HeadwiseError: torch does not know the name, or this machine does not have the device.
    """
    import torch

    if name == "auto":
        return f"cuda:{_local_gpu()}" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(name).type
    except RuntimeError:
        raise HeadwiseError(f"{name!r} is not a device. Give cpu, cuda, cuda:1 or mps.") from None
    try:
        if kind == "meta":
            raise RuntimeError
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError, ImportError):
        has = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
        has += ["mps"] * torch.backends.mps.is_available()
        raise HeadwiseError(
            f"--device {name} was given, but this machine has none. Give {' or '.join(['cpu', *has])}."
        ) from None
    return name


def _local_gpu() -> int:
    """The number of this process's GPU, if torchrun or accelerate launch started one process per GPU."""
    import torch

    number = os.environ.get("LOCAL_RANK", "0")
    return int(number) % torch.cuda.device_count() if number.isdecimal() else 0
