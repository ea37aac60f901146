"""What the arguments of a denoiser call hold: the latents, their grid, the rows of the batch."""

from typing import Any

from torch import Tensor

from headwise.errors import HookMisuse

__all__ = ["at_time", "crop_latents", "grid_of", "latents_in", "least_side", "rows_of"]


def latents_in(inputs: dict[str, Any]) -> str:
    """The name of the latents among the inputs: "sample" in UNets, "hidden_states" in transformers."""
    return "sample" if "sample" in inputs else "hidden_states"


def grid_of(latents: Tensor, inputs: dict[str, Any]) -> tuple[int, int]:
    """Height and width of the latents; where they come as a row of patches, the patches' ids tell.

    Raises:
        HookMisuse: The latents are not those of still images.
    """
    if latents.ndim == 3:
        if not isinstance(inputs.get("img_ids"), Tensor):
            raise HookMisuse(
                "The denoiser got its latents as a row of patches without img_ids, so their grid is unknown. "
                "Use a pipeline of a supported family, see docs/compatibility.md."
            )
        height, width = (int(index) + 1 for index in inputs["img_ids"].reshape(-1, 3)[-1][-2:])
        if latents.shape[1] != height * width:
            raise HookMisuse(
                f"The denoiser got {latents.shape[1]} patches for a grid of {height} × {width}; other images "
                "stand beside the one that is generated. Use a text-to-image pipeline."
            )
        return height, width
    if latents.ndim != 4:
        raise HookMisuse(
            f"The denoiser's latents have shape {tuple(latents.shape)}; expected rows, channels, height "
            "and width of still images. Use a pipeline that generates images, not video."
        )
    return latents.shape[-2], latents.shape[-1]


def least_side(denoiser: Any) -> int:
    """The side of the smallest latents that a denoiser takes; norms need two values in a group."""
    halvings = len(getattr(denoiser.config, "block_out_channels", (0,))) - 1
    return 2 * (getattr(denoiser.config, "patch_size", None) or 1) * 2**halvings


def crop_latents(inputs: dict[str, Any], side: int) -> dict[str, Any]:
    """The inputs that change where a corner of the latents is computed, and a text without mask is read."""
    name = latents_in(inputs)
    changed = {key: None for key in inputs if "controlnet" in key or "residual" in key or "text" in key}
    changed |= {key: None for key in inputs if key == "encoder_attention_mask"}
    if inputs[name].ndim == 3:
        return changed | {name: inputs[name][:, :1], "img_ids": inputs["img_ids"][..., :1, :]}
    return changed | {name: inputs[name][..., :side, :side]}


def at_time(denoiser: Any, inputs: dict[str, Any], latents: Tensor, timestep: Tensor) -> dict[str, Any]:
    """The inputs that change where other latents are computed, at this timestep.

    Args:
        denoiser: The denoiser; Sana's pipelines scale the timesteps that they give theirs.
        inputs: The inputs of a call; transformers get a timestep for each row, FLUX in thousandths.
        latents: The other latents.
        timestep: The scheduler's timestep, one number.
    """
    given = inputs["timestep"]
    if isinstance(given, Tensor) and given.ndim:
        timestep = timestep.expand(len(latents)).to(given)
    timestep = timestep * (getattr(denoiser.config, "timestep_scale", None) or 1)
    name = latents_in(inputs)  # in the denoiser's type, as Sana's pipeline keeps its latents in float32
    latents = latents.to(inputs[name].dtype)
    return {name: latents, "timestep": timestep / 1000 if "img_ids" in inputs else timestep}


def rows_of(value: Any, rows: int, chosen: slice | list[int]) -> Any:
    """Those rows of whatever denoiser input has a row for each of the batch; other values as they are."""
    if isinstance(value, dict):
        return {name: rows_of(item, rows, chosen) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(rows_of(item, rows, chosen) for item in value)
    return value[chosen] if isinstance(value, Tensor) and value.ndim and len(value) == rows else value
