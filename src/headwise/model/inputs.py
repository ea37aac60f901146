"""What the arguments of a denoiser call hold: the latents, their grid, the text, the rows of the batch."""

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from headwise.errors import HookMisuse
from headwise.model.families import family_of
from headwise.model.modes import without_masks

__all__ = ["at_time", "grid_of", "latents_in", "least_side", "patches", "reading", "rows_of"]


def latents_in(inputs: dict[str, Any]) -> str:
    """The name of the latents among the inputs: "sample" in UNets, "hidden_states" in transformers."""
    return "sample" if "sample" in inputs else "hidden_states"


def grid_of(latents: Tensor, inputs: dict[str, Any]) -> tuple[int, int]:
    """Height and width of the latents; where they come as a row of patches, the patches' ids tell.

    Raises:
        HookMisuse: The latents are not those of still images.
    """
    if latents.ndim == 3:
        height, width = _grid_of_patches(inputs)
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


def _grid_of_patches(inputs: dict[str, Any]) -> tuple[int, int]:
    """Height and width in patches, from the place of the last (frame, row, column …) or from the shapes."""
    if isinstance(inputs.get("img_ids"), Tensor):
        ids = inputs["img_ids"]
        height, width = (int(index) + 1 for index in ids.reshape(-1, ids.shape[-1])[-1][1:3])
        return height, width
    if inputs.get("img_shapes"):
        shapes = inputs["img_shapes"][0]  # of the images that one row of the batch holds
        _, height, width = shapes[-1] if isinstance(shapes, list) else shapes
        return height, width
    raise HookMisuse(
        "The denoiser got its latents as a row of patches without img_ids, so their grid is unknown. "
        "Use a pipeline of a supported family, see docs/compatibility.md."
    )


def patches(grid: tuple[int, int], denoiser: Any, pixels: int) -> tuple[int, int]:
    """The grid that layers of this many pixels halve: of the patches that the denoiser makes of its latents.

    Where the latents come as a row of patches, they are its pixels, and their grid is that of the patches.
    """
    patch = getattr(denoiser.config, "patch_size", None) or 1
    return grid if grid[0] * grid[1] == pixels else (grid[0] // patch, grid[1] // patch)


def least_side(denoiser: Any) -> int:
    """The side of the smallest latents that a denoiser takes; norms need two values in a group."""
    halvings = len(getattr(denoiser.config, "block_out_channels", (0,))) - 1
    return 2 * (getattr(denoiser.config, "patch_size", None) or 1) * 2**halvings


def reading(
    inputs: dict[str, Any],
    text: Float[Tensor, "rows tokens dim"],
    places: Int[Tensor, " tokens"],
    denoiser: Any,
) -> tuple[dict[str, Any], tuple[int, int]]:
    """The inputs that change where another text is read, without mask, beside a corner of the latents.

    Args:
        inputs: The inputs of a call.
        text: What is read in place of the prompt.
        places: The place in a prompt that each token is read at.
        denoiser: The denoiser that is called.

    Returns:
        The inputs, and the grid of the corner.
    """
    left_out = ("controlnet", "residual", "text", "mask")
    changed: dict[str, Any] = {key: None for key in inputs if any(part in key for part in left_out)}
    changed |= without_masks(inputs)
    changed["encoder_hidden_states"] = text.to(inputs["encoder_hidden_states"])
    if "txt_ids" in inputs:
        ids = inputs["txt_ids"]
        changed["txt_ids"] = ids[..., places.clamp(max=ids.shape[-2] - 1).to(ids.device), :]
    name, side = latents_in(inputs), least_side(denoiser)
    if inputs[name].ndim != 3:
        changed[name] = inputs[name][..., :side, :side]
        return changed, (changed[name].shape[-2], changed[name].shape[-1])
    changed[name] = inputs[name][:, :1]
    if "img_ids" in inputs:
        changed["img_ids"] = inputs["img_ids"][..., :1, :]
    return changed, (1, 1)


def at_time(denoiser: Any, inputs: dict[str, Any], latents: Tensor, timestep: Tensor) -> dict[str, Any]:
    """The inputs that change where other latents are computed, at this timestep.

    Args:
        denoiser: The denoiser, whose family and whose configuration (Sana's) may scale timesteps.
        inputs: The inputs of a call; transformers get a timestep for each row.
        latents: The other latents.
        timestep: The scheduler's timestep, one number.
    """
    given = inputs["timestep"]
    if isinstance(given, Tensor) and given.ndim:
        timestep = timestep.expand(len(latents)).to(given)
    scale = (getattr(denoiser.config, "timestep_scale", None) or 1) * family_of(denoiser).timestep_scale
    name = latents_in(inputs)  # in the denoiser's type, as Sana's pipeline keeps its latents in float32
    return {name: latents.to(inputs[name].dtype), "timestep": timestep * scale}


def rows_of(value: Any, rows: int, chosen: slice | list[int]) -> Any:
    """Those rows of whatever denoiser input has a row for each of the batch; other values as they are."""
    if isinstance(value, dict):
        return {name: rows_of(item, rows, chosen) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(rows_of(item, rows, chosen) for item in value)
    return value[chosen] if isinstance(value, Tensor) and value.ndim and len(value) == rows else value
