"""The published arrays: read a clone of the paper's repository as `Relevance`.

The authors released head relevance vectors of two models as bare .npy arrays, 34 concepts × heads: concepts
in the order of their word list, heads in the order down, mid, up. Concept names come from the packaged
paper34, head maps from the published configurations of the denoisers.

References:
    | https://github.com/SNU-DRL/HRV (Apache-2.0)
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from headwise.errors import UnreadableFile
from headwise.measuring.concepts import ConceptSet
from headwise.measuring.relevance import Relevance
from headwise.model.heads import HeadMap

__all__ = ["MODELS", "SHORT", "configuration", "find_official", "head_map_of", "read_official"]

MODELS = {
    "sd_v1_4": "CompVis/stable-diffusion-v1-4",
    "sd_xl_base_1_0": "stabilityai/stable-diffusion-xl-base-1.0",
}
SHORT = {"sd14": "sd_v1_4", "sdxl": "sd_xl_base_1_0"}  # their usual short names

_SDXL = {
    "sample_size": 128,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (320, 640, 1280),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
_CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "sd_v1_4": {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    "sd_xl_base_1_0": _SDXL,
}


def configuration(model: str) -> dict[str, Any]:
    """The published configuration of "sd14" or "sdxl"; its other fields are diffusers' defaults."""
    return dict(_CONFIGURATIONS[SHORT[model]])


def head_map_of(tag: str) -> HeadMap:
    """The head map of a published model, from its configuration alone.

    Args:
        tag: A key of `MODELS`, as the files of the paper's repository are named.
    """
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        return HeadMap.of(UNet2DConditionModel(**_CONFIGURATIONS[tag]))


def find_official(folder: str | Path) -> dict[str, Path]:
    """The files of published arrays in a folder or below it, by the tag of their model.

    Raises:
        UnreadableFile: The folder holds none of the published arrays.
    """
    files = dict(sorted(_arrays(Path(folder))))
    if not files:
        raise UnreadableFile(
            f"{folder} holds none of the published arrays (category_vectors_…_sd_v1_4.npy, "
            "…_sd_xl_base_1_0.npy). Give a clone of https://github.com/SNU-DRL/HRV."
        )
    return files


def read_official(path: str | Path, tag: str) -> Relevance:
    """Read one published array as a `Relevance`.

    Args:
        path: The .npy file.
        tag: The model it belongs to, a key of `MODELS`.

    Raises:
        UnreadableFile: The file is not an array of the expected shape.
    """
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UnreadableFile(f"{path} cannot be read as an array: {error}. Copy it again.") from None
    head_map, names = head_map_of(tag), ConceptSet.load("paper34").names
    if values.shape != (len(names), head_map.all_heads):
        raise UnreadableFile(
            f"{path} has shape {values.shape}; expected {(len(names), head_map.all_heads)}, the paper's "
            f"concepts × the heads of {MODELS[tag]}."
        )
    unknown = np.full(values.shape, np.nan)
    settings = {"model": MODELS[tag], "source": Path(path).name, "pictures": 2100}
    settings |= {
        "num_inference_steps": 50,
        "guidance_scale": 7.5,
        "concepts": ConceptSet.load("paper34").to_json(),
    }
    return Relevance(values.astype(np.float64), unknown, unknown[:, 0].copy(), names, head_map, settings)


def _arrays(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in folder.rglob("category_vectors*.npy"):
        for tag in MODELS:
            if path.stem.endswith(tag):
                yield tag, path
