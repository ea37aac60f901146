"""What the arguments of a denoiser call hold: the latents, their grid, the text, the rows of the batch."""

import inspect
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from headwise.errors import HookMisuse
from headwise.model.families import Family, family_of
from headwise.model.modes import without_masks

__all__ = [
    "TextRead", "at_time", "call_denoiser", "grid_of", "latents_in", "least_side", "patch_side", "patches",
    "reading", "rows_of", "standard", "text_in",
]  # fmt: skip


class TextRead(NamedTuple):
    """The text that a denoiser is called with.

    Args:
        embedding: The embedding of the first encoder's tokens, "rows tokens …"; None if there is none.
        tokens: The number of tokens of the longest row, over all encoders, registers included.
        lengths: The number of tokens of each row, if its pixels directly follow them; else empty.
    """

    embedding: Tensor | None
    tokens: int
    lengths: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        """The size of one token's embedding; 0 if there is none."""
        return 0 if self.embedding is None else self.embedding[0, 0].numel()


def standard(inputs: dict[str, Any], family: Family) -> dict[str, Any]:
    """The inputs of a call by the names that most denoisers use; lists of rows become one tensor.

    Raises:
        HookMisuse: The lists do not hold exactly one still image per row.
    """
    ours = {theirs: name for name, theirs in family.names.items()}
    inputs = {ours.get(name, name): value for name, value in inputs.items()}
    images = inputs.get("hidden_states")
    if not isinstance(images, list):
        return inputs
    text = inputs["encoder_hidden_states"]
    if any(isinstance(image, list) or image.shape[1] != 1 for image in images):
        raise HookMisuse(
            "The denoiser got several images or frames in one row; expected only the generated image. "
            "Use a text-to-image pipeline."
        )
    lengths = torch.tensor([len(row) for row in text])
    rows = {"hidden_states": torch.cat(images, 1).transpose(0, 1), "text_lengths": lengths}
    return inputs | rows | {"encoder_hidden_states": pad_sequence(text, batch_first=True)}


def call_denoiser(denoiser: Any, family: Family, inputs: dict[str, Any]) -> Any:
    """The output of the denoiser's forward for inputs as `standard` returns them."""
    listed = "text_lengths" in inputs and "text_lengths" not in family.names
    if listed:
        inputs = dict(inputs)
        text = zip(inputs["encoder_hidden_states"], inputs.pop("text_lengths").tolist(), strict=True)
        inputs["encoder_hidden_states"] = [row[:length] for row, length in text]
        inputs["hidden_states"] = [image[:, None] for image in inputs["hidden_states"]]
    output = denoiser.forward(**{family.names.get(name, name): value for name, value in inputs.items()})
    return (torch.cat(output[0], 1).transpose(0, 1),) if listed else output


def text_in(inputs: dict[str, Any], family: Family) -> TextRead:
    """The text that a denoiser is called with, from its inputs as `standard` returns them."""
    names = ("encoder_hidden_states", "encoder_hidden_states_t5")
    texts = [inputs[name] for name in names if isinstance(inputs.get(name), Tensor)]
    if not texts:
        return TextRead(None, 0)
    tokens = sum(text.shape[1] for text in texts) + family.registers
    if family.ragged:
        lengths = tuple(inputs["encoder_attention_mask"].sum(1).tolist())
        return TextRead(texts[0], max(lengths), lengths)
    if family.filled is not None:
        tokens = int(inputs["text_lengths"].max())
    return TextRead(texts[0], tokens)


def latents_in(inputs: dict[str, Any]) -> str:
    """The name of the latents among the inputs: "sample" in UNets, "hidden_states" in transformers."""
    return "sample" if "sample" in inputs else "hidden_states"


def grid_of(latents: Tensor, inputs: dict[str, Any]) -> tuple[int, int]:
    """Height and width of the latents; for a row of patches, they come from the patches' ids.

    Raises:
        HookMisuse: The latents are not those of still images.
    """
    if latents.ndim == 3:
        height, width = _grid_of_patches(inputs)
        if latents.shape[1] != height * width:
            raise HookMisuse(
                f"The denoiser got {latents.shape[1]} patches for a grid of {height} × {width}, so "
                "there are images beside the generated one. Use a text-to-image pipeline."
            )
        return height, width
    if latents.ndim != 4:
        raise HookMisuse(
            f"The denoiser's latents have shape {tuple(latents.shape)}; expected rows, channels, height "
            "and width of still images. Use a pipeline that generates images, not video."
        )
    return latents.shape[-2], latents.shape[-1]


def _grid_of_patches(inputs: dict[str, Any]) -> tuple[int, int]:
    """Height and width in patches, from the place of the last one (frame, row, column …) or from shapes."""
    ids = inputs.get("img_ids", inputs.get("position_ids"))
    if isinstance(ids, Tensor):
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
    """The grid of the patches that a denoiser makes of its latents; layers with fewer pixels halve it.

    Latents that come as a row of patches are themselves the pixels, and keep their grid.
    """
    patch = patch_side(denoiser)
    return grid if grid[0] * grid[1] == pixels else (grid[0] // patch, grid[1] // patch)


def patch_side(denoiser: Any) -> int:
    """The side of the patches that a denoiser makes of latents."""
    of_several = getattr(denoiser.config, "all_patch_size", None) or (1,)
    return getattr(denoiser.config, "patch_size", None) or of_several[0]


def least_side(denoiser: Any) -> int:
    """The side of the smallest latents that a denoiser accepts; norms need two values in a group."""
    halvings = len(getattr(denoiser.config, "block_out_channels", (0,))) - 1
    return 2 * patch_side(denoiser) * 2**halvings


def reading(
    inputs: dict[str, Any],
    text: Float[Tensor, "rows tokens dim"],
    places: Int[Tensor, " tokens"],
    denoiser: Any,
) -> tuple[dict[str, Any], tuple[int, int]]:
    """The inputs to change so that another text is read, without a mask, with a corner of the latents.

    Args:
        inputs: The inputs of a call.
        text: The text to read in place of the prompt.
        places: The place in a prompt at which each token is read.
        denoiser: The denoiser that is called.

    Returns:
        The inputs, and the grid of the corner.
    """
    left_out = ("controlnet", "residual", "text", "mask")
    changed: dict[str, Any] = {key: None for key in inputs if any(part in key for part in left_out)}
    changed |= without_masks(inputs)
    given, (rows, tokens) = inputs["encoder_hidden_states"], text.shape[:2]
    changed["encoder_hidden_states"] = text.reshape(rows, tokens, *given.shape[2:]).to(given)
    if "text_lengths" in inputs:
        changed["text_lengths"] = inputs["text_lengths"].new_full((rows,), tokens)
    for name, parameter in inspect.signature(type(denoiser).forward).parameters.items():
        if "mask" in name and parameter.default is parameter.empty:
            changed[name] = inputs[name].new_ones(rows, tokens)
    if "position_ids" in inputs:  # of the text, all of it at one place, and of the pixels
        ids = inputs["position_ids"]
        changed["position_ids"] = torch.cat([ids[:1].expand(tokens, -1), ids[given.shape[1] :][:1]])
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
    """The inputs to change so that other latents are denoised, at this timestep.

    Args:
        denoiser: The denoiser, whose family and whose configuration (Sana's) may scale timesteps.
        inputs: The inputs of a call; transformers get a timestep for each row.
        latents: The other latents.
        timestep: The scheduler's timestep, one number.
    """
    given = inputs["timestep"]
    if isinstance(given, Tensor) and given.ndim:
        timestep = timestep.expand(len(latents)).to(given)
    family = family_of(denoiser)
    scale = (getattr(denoiser.config, "timestep_scale", None) or 1) * family.timestep_scale
    time = 1 - timestep * scale if family.from_noise else timestep * scale
    name = latents_in(inputs)  # in the denoiser's type, as Sana's pipeline keeps its latents in float32
    return {name: latents.to(inputs[name].dtype), "timestep": time}


def rows_of(value: Any, rows: int, chosen: slice | list[int]) -> Any:
    """The chosen rows of denoiser inputs that have a row for each of the batch; other values unchanged."""
    if isinstance(value, dict):
        return {name: rows_of(item, rows, chosen) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(rows_of(item, rows, chosen) for item in value)
    return value[chosen] if isinstance(value, Tensor) and value.ndim and len(value) == rows else value
