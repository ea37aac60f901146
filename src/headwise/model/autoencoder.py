"""The autoencoder between images and latents of mean 0 and variance 1, used as a pipeline itself uses it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from headwise.errors import NotFinite, Unsupported
from headwise.model.heads import denoiser_of

__all__ = ["decoded", "encoded"]


@torch.no_grad()
def encoded(pipe: Any, picture: Image.Image | Tensor) -> Float[Tensor, "1 channels height width"]:
    """The latents of an image, the mode of the encoder's distribution, in the denoiser's data type.

    Raises:
        NotFinite: The autoencoder overflows on the image.
    """
    with _wide_autoencoder(pipe) as vae:
        pixels = pipe.image_processor.preprocess(picture).to(pipe._execution_device, vae.dtype)
        mean, scale = _normalisation(vae)
        code = vae.encode(pixels)
        latents = (code.latent_dist.mode() if hasattr(code, "latent_dist") else code.latent) - mean
        latents = latents * scale
    if not latents.isfinite().all():
        raise NotFinite(
            f"The autoencoder's latents are not finite in {pipe.vae.dtype}. Load the pipeline in "
            "bfloat16 or float32, or with an autoencoder made for half precision."
        )
    # laid out as a pipeline's own latents, so that the denoiser's kernels round in the same way
    return latents.to(denoiser_of(pipe).dtype).contiguous()


@torch.no_grad()
def decoded(pipe: Any, latents: Float[Tensor, "n channels height width"], output_type: str = "pil") -> Any:
    """The images of latents, in the form that a pipeline's `output_type` names."""
    with _wide_autoencoder(pipe) as vae:
        mean, scale = _normalisation(vae)
        pixels = vae.decode(latents.to(vae.dtype) / scale + mean).sample
    return pipe.image_processor.postprocess(pixels, output_type=output_type)


@contextmanager
def _wide_autoencoder(pipe: Any) -> Iterator[Any]:
    """The autoencoder, in float32 if its `force_upcast` says that it overflows in float16.

    Raises:
        Unsupported: Its latents are not normalised by mean and scale, or it is for video.
    """
    vae, dtype = pipe.vae, pipe.vae.dtype
    if hasattr(vae, "bn") or hasattr(vae.config, "temperal_downsample"):
        raise Unsupported(
            f"Images cannot be encoded with {type(vae).__name__}, the autoencoder of {type(pipe).__name__}. "
            "Generate the image, or use a model with AutoencoderKL or AutoencoderDC."
        )
    if not (dtype is torch.float16 and getattr(vae.config, "force_upcast", False)):
        yield vae
        return
    vae.to(torch.float32)
    try:
        yield vae
    finally:
        vae.to(dtype)


def _normalisation(vae: Any) -> tuple[Tensor | float, Tensor | float]:
    """The mean subtracted from an encoder's output, and the factor then applied to it."""
    mean, std = getattr(vae.config, "latents_mean", None), getattr(vae.config, "latents_std", None)
    if mean is None or std is None:
        return getattr(vae.config, "shift_factor", None) or 0.0, vae.config.scaling_factor
    mean, std = (torch.tensor(each).view(1, -1, 1, 1).to(vae.device, vae.dtype) for each in (mean, std))
    return mean, vae.config.scaling_factor / std
