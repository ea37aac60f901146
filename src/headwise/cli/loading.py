"""Loading what options name: the pipeline, LoRA files with their scales, relevance files."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headwise.cli.devices import device_named
from headwise.errors import UnreadableFile

__all__ = ["file_of", "pipeline_of", "scales_in"]


def pipeline_of(name: str, dtype: str, device: str, loading: dict[str, Any]) -> Any:
    """Load a pipeline onto a device, without progress bars.

    Args:
        name: The model, as --model takes it.
        dtype, device: As the options of these names take them.
        loading: Further arguments of `load_pipeline`.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # else it advises installing torchvision
    import torch
    import transformers

    from headwise.measuring.official import MODELS, SHORT
    from headwise.model.pipelines import load_pipeline

    transformers.utils.logging.disable_progress_bar()  # diffusers shows its own bar around it
    types = {"auto": None, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    device = device_named(device)
    name = MODELS[SHORT[name]] if name in SHORT and not Path(name).exists() else name
    return load_pipeline(name, dtype=types[dtype], device=device, **loading)


def scales_in(texts: Sequence[str]) -> dict[str, float]:
    """["style.safetensors:0.8"] as {"style.safetensors": 0.8}; without a scale it is 1."""
    scales = {}
    for text in texts:
        file, _, scale = text.rpartition(":")
        try:
            scales[file] = float(scale)
        except ValueError:  # no scale, or a colon that belongs to the path
            scales[text] = 1.0
    return scales


def file_of(path: Path) -> Path:
    """The relevance file at a path, which may be the folder of a run."""
    file = path / "relevance.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise UnreadableFile(
            f"{file} does not exist. Give a relevance file, or the folder of a finished `headwise measure`."
        )
    return file
