"""Inpainting models as text-to-image models: they paint the whole image from the prompt alone.

Besides latents, their denoiser takes a mask and the latents of the image outside the mask:

    ε(z_t, mask, E(image · (1 − mask)), prompt)

With a mask of ones no image is left, so both are constant and can be added in every call of the denoiser.
"""

from typing import Any

import torch
from torch import Tensor, nn

from headwise.errors import ModelNotLoaded
from headwise.model.autoencoder import encoded
from headwise.model.heads import denoiser_of

__all__ = ["paint_everything"]


def paint_everything(pipe: Any) -> None:
    """Make the denoiser of an inpainting model take latents alone; other pipelines are left unchanged.

    The pipeline is for use, not for saving: the configuration of its UNet then has the channels of latents.

    Raises:
        ModelNotLoaded: The denoiser takes other inputs besides latents.
    """
    denoiser = denoiser_of(pipe)
    taken = getattr(denoiser.config, "in_channels", None)
    channels = getattr(getattr(getattr(pipe, "vae", None), "config", None), "latent_channels", None)
    if type(denoiser).__name__ != "UNet2DConditionModel" or channels is None or taken == channels:
        return
    if taken != 2 * channels + 1:
        raise ModelNotLoaded(
            f"{type(pipe).__name__} has a UNet of {taken} channels for latents of {channels}; expected "
            f"{channels}, or {2 * channels + 1} as for inpainting. Give a text-to-image or inpainting model."
        )
    blank: dict[tuple[int, int], Tensor] = {}

    def add(first: nn.Module, arguments: tuple[Tensor]) -> tuple[Tensor]:
        """Add the mask and the blank image inside the denoiser, so that all other code sees only latents."""
        [latents] = arguments
        size = (latents.shape[-2], latents.shape[-1])
        if size not in blank:
            factor = pipe.vae_scale_factor
            with torch.no_grad():
                blank[size] = encoded(pipe, torch.full((1, 3, size[0] * factor, size[1] * factor), 0.5))
        picture = blank[size].to(latents).expand(len(latents), -1, -1, -1)
        return (torch.cat([latents, torch.ones_like(latents[:, :1]), picture], 1),)

    denoiser.conv_in.register_forward_pre_hook(add)
    denoiser.register_to_config(in_channels=channels)  # by which pipelines sample latents
