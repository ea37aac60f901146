"""The memory that a pipeline uses, on a GPU or in this process."""

__all__ = ["memory_of"]

import sys
from typing import Any

import torch
from torch import nn

from headwise.model.heads import denoiser_of


def memory_of(pipe: Any) -> tuple[float, float]:
    """The size of all weights, and the peak memory so far, in MB."""
    return _weights(pipe) / 2**20, _peak(denoiser_of(pipe).device) / 2**20


def _weights(pipe: Any) -> int:
    modules = [module for module in pipe.components.values() if isinstance(module, nn.Module)]
    return sum(p.numel() * p.element_size() for module in modules for p in module.parameters())


def _peak(device: torch.device) -> int:
    """The peak in bytes: of the denoiser's GPU, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import psutil  # comes with accelerate

    memory = psutil.Process().memory_info()
    return getattr(memory, "peak_wset", None) or _resident_peak() or memory.rss


def _resident_peak() -> int:
    try:
        import resource
    except ImportError:  # Windows, where psutil has the peak
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
